package recourse

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// filler fills values at random, each member zero now and then. A member that is added to a record later is filled too, and then has to
// be written.
type filler struct {
	*rand.Rand
	texts []string
}

var enumSizes = map[reflect.Type]int{
	reflect.TypeFor[Action](): len(actionNames), reflect.TypeFor[Verb](): len(actionNames), reflect.TypeFor[Reason](): len(reasonNames),
	reflect.TypeFor[Level](): len(levelNames), reflect.TypeFor[Section](): 2, reflect.TypeFor[Semantics](): 2,
	reflect.TypeFor[WaitKind](): len(waitKindNames), reflect.TypeFor[ControlVerb](): len(controlNames), reflect.TypeFor[LifecycleEvent](): len(lifecycleNames),
}

func (f filler) fill(v reflect.Value) {
	if f.IntN(4) == 0 && v.Kind() != reflect.Struct {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			if f.IntN(4) > 0 {
				v.Set(reflect.ValueOf(time.Unix(f.Int64N(4e9), f.Int64N(1e9)).UTC()))
			}
			return
		}
		for i := range v.NumField() {
			f.fill(v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), f.IntN(4), 4))
		for i := range v.Len() {
			f.fill(v.Index(i))
		}
	case reflect.String:
		v.SetString(f.texts[f.IntN(len(f.texts))])
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8:
		v.SetUint(uint64(f.IntN(enumSizes[v.Type()])))
	case reflect.Uint16:
		v.SetUint(f.Uint64N(1<<len(actionNames)) &^ 1)
	case reflect.Uint32:
		v.SetUint(f.Uint64N(1<<len(errorTypeNames)) &^ 1)
	case reflect.Uint64:
		v.SetUint(f.Uint64() >> f.IntN(64))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(f.Uint64()>>(1+f.IntN(63))) - 1)
	default:
		panic(v.Kind())
	}
}

// TestEncode holds what is written by hand to what reflection makes of the same value.
func TestEncode(t *testing.T) {
	texts := []string{"", "a", "prod/canary[2]/rollout", "Größe", "\"\\/<>&\u2028\u2029\x00\x1f\x7f\b\f\n\r\t", "𝄞"}
	for _, texts := range [][]string{texts, append(texts, "a\xffb")} {
		f := filler{rand.New(rand.NewPCG(1, 2)), texts}
		refused := 0
		for range 3000 {
			for _, v := range []any{new(Record), new(Failure)} {
				f.fill(reflect.ValueOf(v).Elem())
				want, wantErr := json.Marshal(v, deterministic)
				got, err := Encode(v)
				if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
					t.Fatalf("got  %s, %v\nwant %s, %v", got, err, want, wantErr)
				}
				if err != nil {
					refused++
				}
			}
		}
		if bad := len(texts) > 6; (refused > 0) != bad {
			t.Errorf("%d were refused", refused)
		}
	}
	for _, at := range []time.Time{{}, time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600))} {
		rec := &Record{At: at}
		want, wantErr := json.Marshal(rec, deterministic)
		if got, err := Encode(rec); (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%v: got %s, %v; want %s, %v", at, got, err, want, wantErr)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	f := filler{rand.New(rand.NewPCG(1, 2)), []string{"prod/canary/rollout", "a message of some length, as they come"}}
	rec, failure := new(Record), new(Failure)
	f.fill(reflect.ValueOf(rec).Elem())
	f.fill(reflect.ValueOf(failure).Elem())
	for name, v := range map[string]any{"record": rec, "failure": failure} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Encode(v)
			}
		})
		b.Run(name+", by reflection", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = json.Marshal(v, deterministic)
			}
		})
	}
}

// TestPlain puts each byte at each place of a text that is otherwise plain: it is plain where JSON has nothing to escape and it is ASCII.
func TestPlain(t *testing.T) {
	for length := 1; length <= 17; length++ {
		for place := range length {
			for c := range 256 {
				text := []byte(strings.Repeat("~", length))
				text[place] = byte(c)
				want := c < 0x80
				if quoted, err := jsontext.AppendQuote(nil, text); want && (err != nil || string(quoted) != `"`+string(text)+`"`) {
					want = false
				}
				if got := plain(string(text)); got != want {
					t.Fatalf("byte %#x at %d of %d: plain is %v, want %v", c, place, length, got, want)
				}
			}
		}
	}
}
