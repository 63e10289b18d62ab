// Package docs holds the project's documents and checks those that say what the code does: JSON Schemas, the AsyncAPI document, and the
// examples.
package docs

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

var update = flag.Bool("update", false, "write the schemas anew")

// TestSchemas: the files are what the code's lists and bounds make of them.
func TestSchemas(t *testing.T) {
	files, err := filepath.Glob("schemas/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, schema := range schemas(t) {
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(schema); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("schemas", name+".json")
		if *update {
			if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s is not what the code says (%v); go test ./docs -update writes it", file, err)
		}
		files = slices.DeleteFunc(files, func(f string) bool { return f == file })
	}
	if len(files) > 0 {
		t.Errorf("nobody checks %s", files)
	}
}

// compile reads the schema of a file, as a user would.
func compile(t testing.TB, name string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	schema, err := c.Compile("schemas/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func valid(t testing.TB, schema *jsonschema.Schema, body []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

const ids = `"account":"acme","org":"o","project":"p","pipeline":"pl","execution":"ex1"`

var execution = recourse.Ref{Account: "acme", Org: "o", Project: "p", Pipeline: "pl", Execution: "ex1"}

// accepts is whether the code takes a body on a subject of a family.
func accepts(family recourse.Family, header map[string][]string, body []byte) error {
	subject, err := recourse.ParseSubject(execution.Subject(family, "me"))
	if err != nil {
		return err
	}
	return takenOn(subject, header, body)
}

func takenOn(subject recourse.Subject, header map[string][]string, body []byte) error {
	body, _, err := recourse.OpenInput(subject, header, body)
	if err != nil {
		return err
	}
	switch subject.Family {
	case recourse.FamilyFailure:
		_, err = recourse.DecodeFailure(body)
	case recourse.FamilyIntervention:
		_, err = recourse.DecodeAnswer(body)
	case recourse.FamilyControl:
		_, err = recourse.DecodeControl(body)
	case recourse.FamilyLifecycle:
		_, err = recourse.DecodeLifecycle(body)
	}
	return err
}

var structuredMode = map[string][]string{"Content-Type": {"application/cloudevents+json"}}

// input is a message of which the schema and the code must say the same.
type input struct {
	schema string
	code   func(body []byte) error
	seeds  []string
}

var inputs = []input{
	{"failure", func(b []byte) error { _, err := recourse.DecodeFailure(b); return err }, []string{
		`{` + ids + `,"node":"prod/canary[2]/rollout","attempt":1}`,
		`{"schema":1,` + ids + `,"node":"prod/deploy","section":"rollbackSteps","attempt":2,"errors":["Timeout","Unknown"],"message":"m","exitCode":-3,"target":"t","retryAfter":"1m30s","at":"2026-01-02T03:04:05.5+01:00"}`,
	}},
	{"answer", func(b []byte) error { _, err := recourse.DecodeAnswer(b); return err }, []string{
		`{` + ids + `,"intervention":3,"action":"Retry","why":"flaky"}`,
		`{"schema":1,` + ids + `,"id":"x","intervention":18446744073709551615,"action":"Ignore","who":"jane","why":"flaky","at":"2026-01-02T03:04:05Z"}`,
	}},
	{"control", func(b []byte) error { _, err := recourse.DecodeControl(b); return err }, []string{
		`{` + ids + `,"wait":3,"do":"run-now","why":"fixed"}`,
		`{"schema":1,` + ids + `,"id":"x","wait":3,"do":"postpone","for":"1d 2h","who":"jane","why":"later","at":"2026-01-02T03:04:05Z"}`,
	}},
	{"lifecycle", func(b []byte) error { _, err := recourse.DecodeLifecycle(b); return err }, []string{
		`{` + ids + `,"event":"finished"}`,
		`{"schema":1,` + ids + `,"event":"aborted","why":"stop","at":"2026-01-02T03:04:05Z"}`,
	}},
	{"cdevents-taskrun", func(b []byte) error {
		return accepts(recourse.FamilyFailure, map[string][]string{
			"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/ci"}, "ce-type": {typeOf(b)},
		}, b)
	}, []string{
		`{"context":{"version":"0.4.1","id":"1","source":"/ci","type":"dev.cdevents.taskrun.finished.0.2.0","timestamp":"2026-01-02T03:04:05Z"},` +
			`"subject":{"id":"run-7","content":{"taskName":"prod/deploy","outcome":"failure"}}}`,
		`{"context":{"specversion":"0.5.0","id":"1","source":"/ci","type":"dev.cdevents.taskrun.finished.0.3.0","timestamp":"2026-01-02T03:04:05Z","chainId":"x"},` +
			`"subject":{"id":"run-7","source":"/ci","type":"taskRun","content":{"taskName":"deploy","outcome":"error","errors":"Timeout: x","pipelineRun":{"id":"ex1"}}},` +
			`"customData":{"team":"web","recourse":{"node":"prod/deploy","section":"steps","attempt":2,"errors":["Timeout"],"exitCode":1,"target":"t","retryAfter":"5s","account":"acme","execution":"ex1"}}}`,
	}},
	{"cloudevents-envelope", func(b []byte) error {
		family := recourse.FamilyFailure
		for _, f := range []recourse.Family{recourse.FamilyIntervention, recourse.FamilyControl, recourse.FamilyLifecycle} {
			if name := typeOf(b); name == recourse.EventType(f) || name == "dev.recourse."+string(f) {
				family = f
			}
		}
		// What stands in the envelope is checked by itself: the type of ours does not look at it here.
		b = bytes.Replace(b, []byte(`"type":"dev.cdevents.taskrun.finished.0.2.0"`), []byte(`"type":"`+recourse.EventType(recourse.FamilyFailure)+`"`), 1)
		subject, err := recourse.ParseSubject(execution.Subject(family, "me"))
		if err == nil {
			_, _, err = recourse.OpenInput(subject, structuredMode, b)
		}
		return err
	}, []string{
		`{"specversion":"1.0","id":"1","source":"/ci","type":"dev.recourse.failure.v1","data":{}}`,
		`{"specversion":"1.0","id":"1","source":"https://ci.example.com/job%201?x#y","type":"dev.recourse.control","subject":"s","time":"2026-01-02T03:04:05Z","datacontenttype":"application/json","dataschema":"x","comexample":"x","n":1,"data_base64":"e30="}`,
	}},
}

// typeOf returns the type of an event, with or without an envelope, "x" where it has none.
func typeOf(body []byte) string {
	var e struct {
		Type    any
		Context any
	}
	_ = json.Unmarshal(body, &e) // then it has none
	if context, ok := e.Context.(map[string]any); ok {
		e.Type = context["type"]
	}
	if s, ok := e.Type.(string); ok && s != "" {
		return s
	}
	return "x"
}

// values are what members are replaced with: what is at an edge, or means something somewhere else.
var values = []string{
	`null`, `true`, `{}`, `[]`, `[1]`, `["Timeout"]`, `["tImEoUt","Timeout"]`, `["AllErrors"]`, `["x"]`, `[null]`, `[""]`, `{"a":null}`, `{"id":"x"}`, `{"recourse":{}}`, `{"recourse":null}`,
	`0`, `1`, `2`, `-1`, `1.5`, `1000000`, `1000001`, `-9223372036854775808`, `-9223372036854775809`, `9223372036854775807`, `9223372036854775808`, `18446744073709551615`, `18446744073709551616`,
	`""`, `" "`, `"x"`, `"\u0000"`, `"\u007f"`, `"\u0085"`, `"\u00a0"`, `"é"`, `"1"`, `"1.0"`, `"null"`,
	`"steps"`, `"STEPS"`, `"rollback"`, `"RollBackSteps"`, `"Retry"`, `"retry"`, `"MANUALINTERVENTION"`, `"run-now"`, `"Run-Now"`, `"postpone"`, `"cancel"`, `"finished"`, `"Aborted"`, `"un\u212anown"`,
	`"a/b"`, `"/a"`, `"a/"`, `"a//b"`, `"a[1]/b"`, `"a[]"`, `"a[1"`, `"[1]"`, `"a[1]b"`, `"a]"`, `"a[[1]]"`, `"a[\n]"`, `"a/b[x]/c[y z]"`,
	`"0s"`, `"0"`, `"-0s"`, `"+1s"`, `"-1s"`, `"1s"`, `"1m30s"`, `"1d 2h"`, `"1d  2h"`, `"1 d"`, `"1w"`, `"1.5h"`, `".5s"`, `"5."`, `"5.s"`, `"1µs"`, `"1us"`, `"0d"`, `"0m 0s"`, `"1h "`, `"1D"`, `"s"`,
	`"2026-01-02T03:04:05Z"`, `"2026-02-30T03:04:05Z"`, `"2024-02-29T03:04:05.123456789+23:59"`, `"2026-01-02t03:04:05z"`, `"2026-01-02T24:00:00Z"`, `"2026-01-02T03:04:60Z"`, `"2026-01-02"`, `"2026-01-02T03:04:05"`, `"2026-01-02T03:04:05+24:00"`, `"0000-01-01T00:00:00Z"`, `"0001-01-01T00:00:00Z"`, `"2026-01-02T03:04:05,5Z"`, `"2026-01-02T3:04:05Z"`,
	`"dev.recourse.failure.v1"`, `"dev.recourse.lifecycle"`, `"dev.recourse.failure.v2"`, `"dev.cdevents.taskrun.finished.0.2.0"`, `"dev.cdevents.taskrun.finished.1.0.0"`, `"failure"`, `"error"`, `"success"`, `"Failure"`, `"taskRun"`, `"TaskRun"`,
	`"application/json"`, `"text/xml"`, `"application/x+JSON; a=b"`, `"json"`, `"a b"`, `"/%41"`, `"/%4"`, `"<x>"`, `"[::1]"`, `"e30="`,
}

// names are what members are called besides their names.
var otherNames = []string{"x", "Account", "data", "data_base64", "for", "id", "recourse", "schema", "node", "execution", "extension1", "Extension", "section", "message", "errors", "at"}

// mutate changes a value at a random place.
func mutate(r *rand.Rand, v any) any {
	anything := func() any {
		switch r.IntN(10) {
		case 0:
			return strings.Repeat("x", []int{255, 256, 257, 4096, 4097}[r.IntN(5)])
		case 1:
			return "a" + strings.Repeat("/a", 30+r.IntN(3))
		}
		d := json.NewDecoder(strings.NewReader(values[r.IntN(len(values))]))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			panic(err)
		}
		return v
	}
	members, ok := v.(map[string]any)
	if !ok || r.IntN(12) == 0 {
		return anything()
	}
	members = maps.Clone(members)
	keys := slices.Sorted(maps.Keys(members))
	switch n := r.IntN(10); {
	case n == 0:
		members[otherNames[r.IntN(len(otherNames))]] = anything()
	case len(keys) == 0:
	case n < 3:
		delete(members, keys[r.IntN(len(keys))])
	default:
		key := keys[r.IntN(len(keys))]
		members[key] = mutate(r, members[key])
	}
	return members
}

// agree checks that schema and code say the same of a body, and returns whether they accept it.
func agree(t *testing.T, schema *jsonschema.Schema, code func([]byte) error, body []byte) bool {
	t.Helper()
	bySchema, byCode := valid(t, schema, body), code(body)
	if (bySchema == nil) != (byCode == nil) && !beyond(byCode) {
		t.Errorf("%s\nschema: %v\ncode: %v", body, bySchema, byCode)
	}
	return bySchema == nil && byCode == nil
}

// beyond reports whether the code refuses what a schema cannot say; TestBeyondSchemas has them all.
func beyond(err error) bool {
	if err == nil {
		return false
	}
	for _, reason := range []string{
		string(recourse.ReasonTooLarge), string(recourse.ReasonTooDeep), string(recourse.ReasonDuplicateKey), "invalid UTF-8", "invalid surrogate",
		" bytes, this one has ", "want 0 to 8784h0m0s", "base64 data", "invalid syntax", // the last: a whole number with a fraction or an exponent
	} {
		if strings.Contains(err.Error(), reason) {
			return true
		}
	}
	return false
}

// TestSchemasAgree: what the code takes is valid, and what is valid the code takes.
func TestSchemasAgree(t *testing.T) {
	for _, in := range inputs {
		t.Run(in.schema, func(t *testing.T) {
			t.Parallel()
			schema := compile(t, in.schema)
			r := rand.New(rand.NewPCG(1, 2))
			accepted := 0
			const rounds = 2000
			for i := range rounds {
				seed := in.seeds[i%len(in.seeds)]
				if err := in.code([]byte(seed)); err != nil {
					t.Fatalf("%s: %v", seed, err)
				}
				var v any
				d := json.NewDecoder(strings.NewReader(seed))
				d.UseNumber()
				if err := d.Decode(&v); err != nil {
					t.Fatal(err)
				}
				for range r.IntN(3) {
					v = mutate(r, v)
				}
				body, err := json.Marshal(v)
				if err != nil {
					t.Fatal(err)
				}
				if agree(t, schema, in.code, body) {
					accepted++
				}
				if t.Failed() && i > 50 {
					t.FailNow()
				}
			}
			if accepted < rounds/4 || accepted > rounds*9/10 {
				t.Errorf("%d of %d messages are accepted, which checks little", accepted, rounds)
			}
		})
	}
}

// FuzzSchemas: the same for whatever bytes.
func FuzzSchemas(f *testing.F) {
	compiled := make([]*jsonschema.Schema, len(inputs))
	for i, in := range inputs {
		compiled[i] = compile(f, in.schema)
		for _, seed := range in.seeds {
			f.Add(i, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, i int, body []byte) {
		if i < 0 || i >= len(inputs) {
			return
		}
		agree(t, compiled[i], inputs[i].code, body)
	})
}

// TestRecordsAreValid: what is written is valid, whatever the record.
func TestRecordsAreValid(t *testing.T) {
	schema := compile(t, "record")
	constants := constantsOf(t, "../record.go")
	f := filler{rand.New(rand.NewPCG(3, 4)), constants}
	bodies := [][]byte{}
	for range 300 {
		rec := new(recourse.Record)
		f.fill(reflect.ValueOf(rec).Elem(), "")
		rec.Schema, rec.Version, rec.Reason = recourse.Schema, 1+f.Uint64N(1<<40), 1+recourse.Reason(f.IntN(len(namesOf[recourse.Reason](1))))
		body, err := recourse.Encode(rec)
		if err != nil {
			t.Fatal(err)
		}
		if err := valid(t, schema, body); err != nil {
			t.Fatalf("%s\n%v", body, err)
		}
		bodies = append(bodies, body)
	}
	// The other way round: a reader takes whatever is valid.
	decodes := 0
	for i := range 2000 {
		var v any
		d := json.NewDecoder(bytes.NewReader(bodies[i%len(bodies)]))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		for range 1 + f.IntN(2) {
			v = mutate(f.Rand, v)
		}
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if valid(t, schema, body) != nil {
			continue
		}
		decodes++
		if _, err := recourse.DecodeRecord(body); err != nil && !beyond(err) {
			t.Fatalf("%s\n%v", body, err)
		}
	}
	if decodes < 150 {
		t.Errorf("%d changed records are valid, which checks little", decodes)
	}
}

// TestProperties: the members of a schema are those of the code, none more.
func TestProperties(t *testing.T) {
	built := schemas(t)
	for name, kind := range map[string]reflect.Type{
		"failure": reflect.TypeFor[recourse.Failure](), "answer": reflect.TypeFor[recourse.Answer](), "control": reflect.TypeFor[recourse.Control](),
		"lifecycle": reflect.TypeFor[recourse.Lifecycle](), "record": reflect.TypeFor[recourse.Record](),
	} {
		sameMembers(t, name, built[name], kind)
	}
}

func sameMembers(t *testing.T, path string, schema object, kind reflect.Type) {
	t.Helper()
	for kind.Kind() == reflect.Pointer || kind.Kind() == reflect.Slice {
		if items, ok := schema["items"].(object); ok {
			schema = items
		}
		kind = kind.Elem()
	}
	properties, ok := schema["properties"].(object)
	if !ok || kind.Kind() != reflect.Struct {
		return
	}
	members := map[string]reflect.Type{}
	collect(kind, members)
	if got, want := slices.Sorted(maps.Keys(properties)), slices.Sorted(maps.Keys(members)); !slices.Equal(got, want) {
		t.Errorf("%s has the members %s, the code %s", path, got, want)
	}
	for name, member := range members {
		if s, ok := properties[name].(object); ok {
			sameMembers(t, path+"."+name, s, member)
		}
	}
}

func collect(kind reflect.Type, members map[string]reflect.Type) {
	for i := range kind.NumField() {
		field := kind.Field(i)
		if field.Anonymous && field.Tag.Get("json") == "" {
			collect(field.Type, members)
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		members[name] = field.Type
	}
}

// filler fills records at random, each member zero now and then.
type filler struct {
	*rand.Rand
	constants map[string][]string
}

func (f filler) fill(v reflect.Value, name string) {
	if v.Kind() != reflect.Struct && name != "Do" && f.IntN(4) == 0 {
		return
	}
	pick := func(list []string) { v.SetString(list[f.IntN(len(list))]) }
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(f.Int64N(4e9), f.Int64N(1e9)).UTC()))
			return
		}
		for i := range v.NumField() {
			f.fill(v.Field(i), v.Type().Field(i).Name)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem(), name)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), f.IntN(3), 3))
		for i := range v.Len() {
			f.fill(v.Index(i), name)
		}
	case reflect.String:
		switch {
		case v.Type() == reflect.TypeFor[recourse.NodeStatus]():
			pick(f.constants["Status"])
		case v.Type() == reflect.TypeFor[recourse.StageOutcome]():
			pick(f.constants["Outcome"])
		case name == "Kind":
			pick(f.constants["Kind"])
		default:
			pick([]string{"x", "prod/a", "é\n", `"`})
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8:
		// The numbers of an enum are those with a name; Section and Semantics have two.
		count := uint64(1)
		if v.Type() != reflect.TypeFor[recourse.Section]() && v.Type() != reflect.TypeFor[recourse.Semantics]() {
			for probe := reflect.New(v.Type()).Elem(); ; count++ {
				if probe.SetUint(count + 1); probe.Interface().(fmt.Stringer).String() == "" {
					break
				}
			}
		}
		if v.SetUint(f.Uint64N(count + 1)); name == "Do" {
			v.SetUint(1 + f.Uint64N(count)) // a control always does something
		}
	case reflect.Uint16:
		v.SetUint(f.Uint64N(1<<(len(recourse.ActionNames())+1)) &^ 1)
	case reflect.Uint32:
		v.SetUint(f.Uint64N(1<<(len(recourse.ErrorTypeNames())+1)) &^ 1)
	case reflect.Uint64:
		v.SetUint(f.Uint64() >> f.IntN(64))
	case reflect.Int:
		v.SetInt(f.Int64N(1000))
	case reflect.Int64:
		v.SetInt(f.Int64N(int64(recourse.MaxWait)))
	default:
		panic(v.Type().String())
	}
}

// TestBeyondSchemas: what the code refuses although it is valid. It is all there is.
func TestBeyondSchemas(t *testing.T) {
	for _, row := range []struct {
		input       int
		old, change string
	}{
		{0, `"attempt":1`, `"attempt":1,"attempt":1`},                           // a key twice
		{0, `"acme"`, `"` + strings.Repeat("é", 200) + `"`},                     // bytes, not characters
		{0, `"attempt":1`, `"attempt":1,"retryAfter":"367d"`},                   // what a duration comes to
		{0, `{"account"`, strings.Repeat(" ", recourse.MaxSize) + `{"account"`}, // the size
		{0, `"attempt":1`, `"attempt":1.0`},                                     // a whole number with a fraction
		{5, `"data":{}`, `"data_base64":"?"`},                                   // what is not base64
		{5, `"data":{}`, `"data":` + strings.Repeat("[", 70) + strings.Repeat("]", 70)},
	} {
		in := inputs[row.input]
		body := strings.Replace(in.seeds[0], row.old, row.change, 1)
		if body == in.seeds[0] {
			t.Fatalf("%s has no %s", in.schema, row.old)
		}
		if err := valid(t, compile(t, in.schema), []byte(body)); err != nil {
			t.Errorf("%.300s: %v", strings.TrimSpace(body), err)
		}
		if err := in.code([]byte(body)); err == nil || !beyond(err) {
			t.Errorf("%.300s: %v", strings.TrimSpace(body), err)
		}
	}
}
