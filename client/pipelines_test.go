package client

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

func TestPipelines(t *testing.T) {
	nc := newBroker(t).connect()
	js := provision(t, nc)
	ctx := t.Context()
	strange := recourse.Ref{Account: "ac$me", Org: "ä b", Project: "a.b=2E", Pipeline: "*>"}
	long := recourse.Ref{Account: "acme", Org: strings.Repeat("o", 100), Project: "p", Pipeline: "p"}
	refs := []recourse.Ref{
		{Account: "acme", Org: "default", Project: "shop", Pipeline: "deploy", Execution: "of no matter"},
		{Account: "acme", Org: "default", Project: "shop", Pipeline: "build"}, strange, long,
	}
	for i, r := range refs {
		if revision, err := PutPipeline(ctx, js, r, []byte("v1 of "+r.Pipeline)); err != nil || revision != uint64(i+1) {
			t.Fatalf("%v: revision %d, %v", r, revision, err)
		}
	}
	second, err := PutPipeline(ctx, js, refs[0], []byte("v2"))
	if err != nil {
		t.Fatal(err)
	}
	if yaml, revision, err := GetPipeline(ctx, js, refs[0]); err != nil || revision != second || string(yaml) != "v2" {
		t.Errorf("got %q, %d, %v", yaml, revision, err)
	}
	if yaml, _, err := GetPipeline(ctx, js, strange); err != nil || string(yaml) != "v1 of *>" {
		t.Errorf("got %q, %v", yaml, err)
	}
	missing := recourse.Ref{Account: "acme", Org: "default", Project: "shop", Pipeline: "nowhere"}
	if _, _, err := GetPipeline(ctx, js, missing); !errors.Is(err, ErrPipelineNotFound) {
		t.Errorf("got %v", err)
	}

	list, err := ListPipelines(ctx, js, recourse.Ref{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range list {
		if p.Created.IsZero() || p.Ref.Execution != "" {
			t.Errorf("%+v", p)
		}
		got = append(got, p.Key)
	}
	want := []string{strange.PipelineKey(), refs[1].PipelineKey(), refs[0].PipelineKey(), long.PipelineKey()}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Fatalf("keys %q, want %q", got, want)
	}
	if list[0].Ref != strange {
		t.Errorf("the ids of %q are %+v", list[0].Key, list[0].Ref)
	}
	if list[2].Revision != second {
		t.Errorf("revision %d, want %d", list[2].Revision, second)
	}
	if !strings.Contains(list[3].Ref.Org, "==") {
		t.Errorf("a shortened id shows as %q", list[3].Ref.Org)
	}
	for filter, want := range map[recourse.Ref]int{
		{Account: "acme"}: 3, {Org: "default"}: 2, {Pipeline: "build"}: 1, {Account: "nobody"}: 0, {Org: long.Org}: 1, {Pipeline: "*>"}: 1,
	} {
		if list, err := ListPipelines(ctx, js, filter); err != nil || len(list) != want {
			t.Errorf("%+v: %d pipelines, %v; want %d", filter, len(list), err, want)
		}
	}
	kv, _ := js.KeyValue(ctx, recourse.BucketPipelines)
	if err := kv.Delete(ctx, refs[1].PipelineKey()); err != nil {
		t.Fatal(err)
	}
	if list, err := ListPipelines(ctx, js, refs[1]); err != nil || len(list) != 0 {
		t.Errorf("a deleted pipeline is listed: %v, %v", list, err)
	}
	if _, _, err := GetPipeline(ctx, js, refs[1]); !errors.Is(err, ErrPipelineNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestPipelineErrors(t *testing.T) {
	nc := newBroker(t).connect()
	js, _ := jetstream.New(nc)
	if _, _, err := GetPipeline(t.Context(), js, ref); !errors.Is(err, jetstream.ErrBucketNotFound) || !strings.Contains(err.Error(), "provision") {
		t.Errorf("got %v", err)
	}
	provision(t, nc)
	if _, err := PutPipeline(t.Context(), js, recourse.Ref{Account: "acme"}, []byte("x")); err == nil {
		t.Error("an incomplete ref is accepted")
	}
	for _, size := range []int{0, MaxPipelineSize + 1} {
		if _, err := PutPipeline(t.Context(), js, ref, bytes.Repeat([]byte("x"), size)); err == nil || !strings.Contains(err.Error(), "bytes of YAML") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
