package pipeline

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

// TestResolveExamples takes the examples apart, each stage, step group and step into a template of its own, and wants them to come
// together again.
func TestResolveExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("examples: %v %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { takeApart(t, file) })
	}
}

// TestResolveCorpus does so with pipelines that others wrote.
func TestResolveCorpus(t *testing.T) {
	apart := 0
	for _, file := range outside(t, "RECOURSE_CORPUS", "../../../shared/corpus", "*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) { apart += takeApart(t, file) })
	}
	if apart < 50 {
		t.Errorf("only %d templates were made", apart)
	}
}

// takeApart returns how many templates it made.
func takeApart(t *testing.T, file string) int {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := &findings{file: "x"}
	tree := parse(text, found)
	if tree == nil || found.sorted().HasErrors() {
		t.Skip("SKIP: not YAML. Nothing was checked.")
	}
	// Written and read it is what it was.
	plan, all := Load("x", text, Options{})
	written, ds := Load("x", render(tree), Options{})
	if !reflect.DeepEqual(summary(written), summary(plan)) || len(ds) != len(all) && !found.has("duplicate-key") && !found.has("extra-documents") {
		t.Errorf("written it is something else: %v, was %v", ds, all)
	}
	a := &apart{dir: fstest.MapFS{}}
	whole := a.take(&cursor{value: tree})
	made, ds := LoadTemplates("tpl", a.dir)
	if len(ds) != 0 {
		t.Fatal(ds)
	}
	opt := Options{Templates: made}
	together, found2, _, _ := resolved(t, string(render(whole)), opt)
	if found2.HasErrors() {
		if strings.Contains(string(text), "templateRef") {
			t.Skip("SKIP: it uses templates that are not here. Nothing more was checked.")
		}
		t.Fatal(found2)
	}
	// What has a default in it was resolved as well.
	as, _ := Load("x", text, opt)
	again, _ := Load("x", []byte(together), Options{})
	if !reflect.DeepEqual(summary(again), summary(as)) {
		t.Errorf("got\n%s\nwant\n%s\nfrom\n%s", strings.Join(summary(again), "\n"), strings.Join(summary(as), "\n"), together)
	}
	return a.made
}

func (f *findings) has(code string) bool {
	for _, d := range f.list {
		if d.Code == code {
			return true
		}
	}
	return false
}

// apart puts what nodes say into templates.
type apart struct {
	dir  fstest.MapFS
	made int
}

func (a *apart) take(at *cursor) *value {
	if at.kind != mapping && at.kind != sequence {
		return at.value
	}
	out := at.value.shallow()
	for i := range out.items {
		out.items[i] = a.take(at.item(i))
	}
	for i := range out.entries {
		child := at.entry(i)
		out.entries[i].value = a.take(child)
		kind := nodeKinds[child.key]
		if kind == "" || kind == "Pipeline" || !child.is(mapping) || child.get("template") != nil || child.get("identifier") == nil {
			continue
		}
		own := &value{kind: mapping}
		spec := &value{kind: mapping}
		for _, e := range out.entries[i].value.entries {
			if e.key == "identifier" || e.key == "name" {
				own.entries = append(own.entries, e)
			} else {
				spec.entries = append(spec.entries, e)
			}
		}
		id := fmt.Sprintf("t%d", a.made)
		a.made++
		own.entries = append(own.entries, entry{key: "template", value: mapOf("templateRef", text(id), "versionLabel", text("v1"))})
		a.dir[id+".yaml"] = &fstest.MapFile{Data: render(mapOf("template", mapOf("identifier", text(id), "versionLabel", text("v1"), "type", text(kind), "spec", spec.measured())))}
		out.entries[i].value = own.measured()
	}
	return out.measured()
}

func text(s string) *value { return &value{kind: scalar, text: s, size: 1, height: 1} }

func mapOf(pairs ...any) *value {
	v := &value{kind: mapping}
	for i := 0; i < len(pairs); i += 2 {
		v.entries = append(v.entries, entry{key: pairs[i].(string), value: pairs[i+1].(*value)})
	}
	return v.measured()
}
