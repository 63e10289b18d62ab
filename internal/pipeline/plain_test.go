package pipeline

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse/internal/decide"
)

// TestPlainYAML: what is read without the library is what the library reads, and what is not plain is left to it.
func TestPlainYAML(t *testing.T) {
	for _, c := range []struct {
		text  string
		plain bool
	}{
		{"a: b\n", true},
		{"a: b", true},
		{"  a: b\n  c: d\n", true},
		{"---\na: b\n", true},
		{"# what\n---\n# why\na: b # how\n\n\n   # where\nc: d\n", true},
		{"--- # what\na: b\n", false},
		{"--- a\n", false},
		{"a: b\n---\nc: d\n", false},
		{"a: b\n...\n", false},
		{"%YAML 1.1\n---\na: b\n", false},
		{"", false},
		{"\n# nothing\n", false},
		{"b\n", false},
		{"{a: b}\n", false},
		{"a:\n  b:\n    c: d\n  e: f\n", true},
		{"a:\n    b: c\n  d: e\n", false},
		{"a:\n  b: c\n d: e\n", false},
		{" a: b\nc: d\n", false},
		{"a: b\n c: d\n", false},
		{"a:\n- b\n- c: d\n  e: f\n-\n  g: h\n-\nz: y\n", true},
		{"a:\n  - b\n  -   c: d\n      e: f\n  -\n    - g\n  - # why\n  - [h]\nz: y\n", true},
		{"- a\n- b: c\n", true},
		{"- - a\n", false},
		{"-\n- a\n", true},
		{"a: b\n- c\n", false},
		{"a:\n- b\n c: d\n", false},
		{"a:\n- b: c\n - d\n", false},
		{"a:\n- b: c\n d: e\n", false},
		{"a:\n  - b: c\n  d: e\n", false},
		{"a:\nb:\n", true},
		{"a:   # nothing\nb: \n", true},
		{"a:\n  # below\nb: c\n", true},
		{"a: ~\nb: null\nc: Null\nd: NULL\ne: nULL\nf: ''\ng: \"\"\nh: 'null'\n", true},
		{"a: true\nb: 0x1f\nc: 1_000\nd: 1e3\ne: 2026-11-23\nf: <+input>\ng: -1\nh: --flag\ni: +1\nj: .inf\nk: a-b\nl: =\n", true},
		{"null: a\ntrue: b\n1: c\n2.5: d\n$e: f\ng-h.i/j: k\n", true},
		{"<<: {a: b}\n", false},
		{"a: &x b\nc: *x\n", false},
		{"a: !!str 1\n", false},
		{"a: @b\n", false},
		{"a: `b`\n", false},
		{"a: %b\n", false},
		{"a: ? b\n", false},
		{"a: - b\n", false},
		{"a: -\n", false},
		{"a: , b\n", false},
		{"? a\n: b\n", false},
		{"a: b c  d   \n", true},
		{"a: b# c\nd: e #f\ng: h#\ni: #j\n", true},
		{"a: 'b'#c\n", false},
		{"a: b: c\n", false},
		{"a: b:\n", false},
		{"a: b: # c\n", false},
		{"a: b:c\nd: http://e:80/f\n", true},
		{"a:b\n", false},
		{"a :b\n", false},
		{"a : b\n", false},
		{"a b: c\n", false},
		{"a: b\n   c\n", false},
		{"a: b\n   # c\nd: e\n", true},
		{"a: b # c\n   d\n", false},
		{"a: b\na: c\n", false},
		{"a: {b: c, b: d}\n", false},
		{"a: \"b\\n\"\n", false},
		{"a: \"b 'c' # d: e\"  # f\ng: 'h \"i\" {j'\n", true},
		{"a: 'b''c'\n", false},
		{"a: 'b\n  c'\n", false},
		{"a: \"b\n  c\"\n", false},
		{"a: 'b\n", false},
		{"a: 'b' c\n", false},
		{"'a': b\n", false},
		{"a: 'b': c\n", false},
		{"a: []\nb: {}\nc: [ ]\nd: { }\n", true},
		{"a: [b, 'c', \"d\", ~, {e: f}, [g, h i]]\nj: {k: [l], m: {n: 'o'}, p: q r, s: http://t:1}\n", true},
		{"a: [ b , c ]  # d\ne: { f: g , h: ~ }\n", true},
		{"a: [b, c,]\n", false},
		{"a: {b: c,}\n", false},
		{"a: [, b]\n", false},
		{"a: [b: c]\n", false},
		{"a: [b,\n  c]\n", false},
		{"a: {b:\n  c}\n", false},
		{"a: {b}\n", false},
		{"a: {b: }\n", false},
		{"a: {b:c}\n", false},
		{"a: {{ b }}\n", false},
		{"a: {{ b }}: c\n", false},
		{"a: {b: c}: d\n", false},
		{"a: [b]: c\n", false},
		{"a: [b] c\n", false},
		{"a: [b {c]\n", false},
		{"a: [b]]\n", false},
		{"a: [b?, c]\n", false},
		{"a: [b #c]\n", false},
		{"a: [b # c\n", false},
		{"a: ['b': c]\n", false},
		{"a: [- b]\n", false},
		{"a: [-1, -b]\n", true},
		{"a: [b:, c]\n", false},
		{"a: |\n  b\n  c\nd: e\n", true},
		{"a: |-\n  b\n    c\n\n  d\n\n\ne: f\n", true},
		{"a: |   \n  b # not a comment\n\n\n# a comment\nc: d\n", true},
		{"- |\n  a\n- b: |-\n    c\n", true},
		{"a:\n- |\n  b\nc: |\n d\n", true},
		{"a: |\n  b\n", true},
		{"a: |\n  b", false},
		{"a: |-\n  b", true},
		{"a: |\n  b\n\n\n", true},
		{"a: |\n\n  b\n", false},
		{"a: |\n  b\n     \n  c\n", false},
		{"a: |\n  b\n \n  c\n", true},
		{"a: |\n   b\n  c\n", false},
		{"a: |\nb: c\n", false},
		{"a: |2\n  b\n", false},
		{"a: |+\n  b\n", false},
		{"a: | # b\n  c\n", false},
		{"a: >\n  b\n", false},
		{"a: |\n  b\n # c\nd: e\n", false},
		{"a: |\n  - b\n  c: [\n", true},
		{"a:\tb\n", false},
		{"a: b\r\n", false},
		{"a: \u00e9\n", false},
		{"a: \x00\n", false},
		{"\xef\xbb\xbfa: b\n", false},
		{"k: {" + strings.Repeat("a", 200) + ": b}\n", false},
	} {
		t.Run(strings.ReplaceAll(c.text, "\n", "|"), func(t *testing.T) {
			if got := agrees(t, []byte(c.text)); got != c.plain {
				t.Errorf("plain: %v, want %v", got, c.plain)
			}
		})
	}
}

// agrees compares both ways to read, and reports whether the text is plain.
func agrees(t *testing.T, text []byte) bool {
	t.Helper()
	found := &findings{file: "test.yaml"}
	got := plain(text, found)
	if len(found.sorted()) != 0 {
		t.Errorf("it reports %v", found.sorted())
	}
	if got == nil {
		return false
	}
	want := parseAny(text, found)
	if len(found.sorted()) != 0 {
		t.Errorf("it is plain, and yet there is something to report: %v", found.sorted())
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s\ngot:\n%swant:\n%s", text, dump(got, 0), dump(want, 0))
	}
	return true
}

// dump writes out a tree.
func dump(v *value, depth int) string {
	if v == nil {
		return "nothing\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "kind %d %q quoted %v offset %d at %d:%d, size %d, height %d\n", v.kind, v.text, v.quoted, v.offset, v.line, v.column, v.size, v.height)
	in := strings.Repeat("  ", depth+1)
	for _, e := range v.entries {
		fmt.Fprintf(&b, "%s%s at %d:%d: %s", in, e.key, e.line, e.column, dump(e.value, depth+1))
	}
	for _, item := range v.items {
		fmt.Fprintf(&b, "%s- %s", in, dump(item, depth+1))
	}
	return b.String()
}

// TestPlainYAMLBounds: what is out of bounds is left to the library, which reports it.
func TestPlainYAMLBounds(t *testing.T) {
	deep := func(n int) []byte { return []byte("a: " + strings.Repeat("[", n) + strings.Repeat("]", n) + "\n") }
	many := func(n int) []byte { return []byte("a:\n" + strings.Repeat("- b\n", n)) }
	keys := func(n int) []byte {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "k%d: v\n", i)
		}
		return []byte(b.String())
	}
	for _, c := range []struct {
		name  string
		text  []byte
		plain bool
	}{
		{"deepest", deep(MaxDepth - 1), true}, {"deeper", deep(MaxDepth), false},
		{"most", many(MaxValues - 2), true}, {"more", many(MaxValues - 1), false},
		{"keys", keys(mostKeys), true}, {"more keys", keys(mostKeys + 1), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := agrees(t, c.text); got != c.plain {
				t.Errorf("plain: %v, want %v", got, c.plain)
			}
		})
	}
}

// TestPlainYAMLOfOthers: pipelines that others wrote are read alike, and many of them are plain.
func TestPlainYAMLOfOthers(t *testing.T) {
	files := outside(t, "RECOURSE_CORPUS", "../../../shared/corpus", "*.yaml")
	read := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if agrees(t, text) {
			read++
		}
	}
	if t.Logf("%d of %d files are plain", read, len(files)); read < len(files)/2 {
		t.Errorf("%d of %d files are plain", read, len(files))
	}
}

// TestPlainYAMLOfExamples: our own examples, and what the benchmarks load, are plain.
func TestPlainYAMLOfExamples(t *testing.T) {
	if !agrees(t, ordinary(20)) {
		t.Error("an ordinary pipeline is not plain")
	}
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		agrees(t, text)
	}
}

func FuzzPlainYAML(f *testing.F) {
	f.Add([]byte("a: b\nc:\n  - d: {e: [f, 'g', \"h\"]}\n    i: |-\n      j\n\n      k # l\n  -\n  - m\n# n\no:\n- p: ~\n"))
	f.Add([]byte("---\npipeline:\n  identifier: p\n  stages:\n    - stage:\n        identifier: s # t\n        x: |\n          y\n\nz: -1\n"))
	f.Add(ordinary(2))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) <= MaxSize {
			agrees(t, text)
		}
	})
}

// TestPlainYAMLIsLetGo: a plan keeps nothing of the text it was made of, however it names things.
func TestPlainYAMLIsLetGo(t *testing.T) {
	const padding, plans = 512 << 10, 40
	load := func(i int, shared *Shared) *decide.Plan {
		text := fmt.Sprintf(`# %s
pipeline:
  identifier: pipeline%d
  stages:
    - stage:
        identifier: stage%d
        failureStrategies:
          - onFailure: {errors: [Timeout], action: {type: ManualIntervention, spec: {timeout: 1d, answerBy: [ann%d], onTimeout: {action: {type: Abort}}}}}
          - onFailure:
              errors: [Connectivity]
              action:
                type: Retry
                spec:
                  retryCount: 3
                  retryIntervals: [%ds]
                  condition: <+step.message> contains "reset %d" && <+step.target> == "host%d"
                  onRetryFailure: {action: {type: Abort}}
        spec: {execution: {steps: [{step: {identifier: step%d, type: ShellScript}}]}}
`, strings.Repeat("x", padding), i, i, i, i+1, i, i, i)
		if plain([]byte(text), &findings{}) == nil {
			t.Fatal("it is not plain")
		}
		plan, found := Load("test.yaml", []byte(text), Options{Shared: shared})
		if found.HasErrors() {
			t.Fatal(found)
		}
		return plan
	}
	for name, shared := range map[string]*Shared{"alone": nil, "shared": NewShared()} {
		t.Run(name, func(t *testing.T) {
			load(plans, shared)
			before := heap()
			var kept []*decide.Plan
			for i := range plans {
				kept = append(kept, load(i, shared))
			}
			if grown := heap() - before; grown > plans*padding/8 {
				t.Errorf("%d plans keep %d bytes of texts of %d", plans, grown, padding)
			}
			runtime.KeepAlive(kept)
		})
	}
}

func heap() int {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}
