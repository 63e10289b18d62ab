package recourse

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// strictly decodes a failure with the strict decoder alone.
func strictly(body []byte) (*Failure, error) {
	f := new(Failure)
	if err := decode(body, f, MaxSize); err != nil {
		return nil, err
	}
	return f, nil
}

// samePlain compares what the plain reader makes of a body with the strict decoder, and reports whether it took it.
func samePlain(t *testing.T, body []byte) bool {
	t.Helper()
	f := new(Failure)
	r := plainReader{b: body}
	if !r.failure(f) {
		return false
	}
	want, err := strictly(body)
	if err != nil || !reflect.DeepEqual(f, want) {
		t.Fatalf("%s\nplain  %+v\nstrict %+v, %v", body, f, want, err)
	}
	return true
}

const plainFailureJSON = `{"schema":1,"account":"acme","org":"default","project":"shop","pipeline":"deploy","execution":"ex42","node":"prod/canary[2]/rollout",` +
	`"section":"rollbackSteps","attempt":2,"errors":["Timeout","Connectivity"],"message":"no answer in 30s","exitCode":0,"target":"web-1","retryAfter":"1m30s","at":"2026-01-02T03:04:05.678Z"}`

// TestPlainFailure: what the plain reader takes is what the strict decoder makes of it, over a failure with all its members that is changed
// at each place in each way.
func TestPlainFailure(t *testing.T) {
	whole := []byte(plainFailureJSON)
	if !samePlain(t, whole) {
		t.Fatal("a plain failure is not taken")
	}
	taken, left := 0, 0
	count := func(body []byte) {
		if samePlain(t, body) {
			taken++
		} else {
			left++
		}
	}
	for i := range whole {
		for _, c := range []byte("\"\\{}[],:0129-+.eEtnZ \n\x00\x7f\x80") {
			body := bytes.Clone(whole)
			body[i] = c
			count(body)
			count(append(append(bytes.Clone(whole[:i]), c), whole[i:]...))
		}
		count(whole[:i])
		count(append(bytes.Clone(whole[:i]), whole[i+1:]...))
	}
	// Members left out, twice, in another order.
	members := strings.Split(strings.Trim(plainFailureJSON, "{}"), `,"`)
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		var parts []string
		for range r.IntN(len(members) + 2) {
			parts = append(parts, `"`+strings.TrimPrefix(members[r.IntN(len(members))], `"`))
		}
		count([]byte("{" + strings.Join(parts, ",") + "}"))
	}
	if taken < 1000 || left < 1000 {
		t.Errorf("%d were taken and %d left to the strict decoder: both have to be seen", taken, left)
	}
	for _, value := range []string{"", "Größe", "a\\\"b", "\u2028"} {
		if body := strings.Replace(plainFailureJSON, "acme", value, 1); samePlain(t, []byte(body)) != (value == "") {
			t.Errorf("%s", body)
		}
	}
}

// TestDecodeFailureTakesThePlainWay: the failures that delegates send are read without reflection, which takes one allocation for the ids.
func TestDecodeFailureTakesThePlainWay(t *testing.T) {
	f, err := DecodeFailure([]byte(plainFailureJSON))
	if err != nil {
		t.Fatal(err)
	}
	body, err := Encode(f)
	if err != nil {
		t.Fatal(err)
	}
	if !samePlain(t, body) {
		t.Errorf("what Encode writes is not read plainly: %s", body)
	}
}

func FuzzPlainFailure(f *testing.F) {
	f.Add([]byte(plainFailureJSON))
	f.Add([]byte(failureJSON))
	f.Fuzz(func(t *testing.T, body []byte) { samePlain(t, body) })
}
