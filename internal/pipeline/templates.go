package pipeline

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/recourse-dev/recourse/internal/nearest"
)

// The bounds of what LoadTemplates reads.
const (
	MaxTemplateFiles = 10_000   // YAML files that are looked at
	MaxTemplateBytes = 16 << 20 // of files that have templates
)

// Templates are the templates of a directory. They do not change once they are loaded, and serve any number of loads.
type Templates struct {
	byID map[string][]*template
}

// template is one version of a template.
type template struct {
	id, version, org, project string
	kind                      string  // Pipeline, Stage, StepGroup, Step
	stable                    bool    // it is what a reference without a version means
	spec                      *cursor // with the way to it in its file
	file                      string
	line                      int
	found                     Diagnostics // in its document; told once it is used
}

// LoadTemplates reads the templates in a directory and below it: every document with the key template in a *.yaml or *.yml file. What
// else is there is passed over. Files are named by their path under name. Diagnostics are about files that should have templates and
// cannot be read, and about templates that are there twice; the others are usable all the same.
func LoadTemplates(name string, dir fs.FS) (*Templates, Diagnostics) {
	t := &Templates{byID: make(map[string][]*template)}
	found := &findings{file: name}
	files, bytes := 0, 0
	err := fs.WalkDir(dir, ".", func(file string, entry fs.DirEntry, err error) error {
		full := path.Join(name, file)
		switch ext := strings.ToLower(path.Ext(file)); {
		case err != nil && file == ".":
			return err
		case err != nil:
			found.report(SeverityWarning, "template-unreadable", origin{full, 1, 1}, "", "it cannot be read: "+err.Error(), "")
			return nil
		case entry.IsDir() && entry.Name() == ".git":
			return fs.SkipDir
		case entry.IsDir() || ext != ".yaml" && ext != ".yml":
			return nil
		}
		if files++; files > MaxTemplateFiles {
			return fmt.Errorf("more than %d YAML files", MaxTemplateFiles)
		}
		text, err := readFile(dir, file)
		switch {
		case err != nil:
			found.report(SeverityWarning, "template-unreadable", origin{full, 1, 1}, "", "it cannot be read: "+err.Error(), "")
			return nil
		case !mentionsTemplate(text):
			return nil
		}
		if bytes += len(text); bytes > MaxTemplateBytes {
			return fmt.Errorf("the files with templates have more than %d bytes", MaxTemplateBytes)
		}
		t.load(full, text, found)
		return nil
	})
	if err != nil {
		found.report(SeverityError, "templates-unreadable", found.at(1, 1), "", "the templates cannot be read: "+err.Error(), "")
	}
	return t, found.sorted()
}

// readFile reads a file up to the bound and one byte more, so that one that is too long shows.
func readFile(dir fs.FS, name string) (text []byte, err error) {
	info, err := fs.Stat(dir, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil // a pipe would never end
	}
	file, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return io.ReadAll(io.LimitReader(file, MaxSize+1))
}

// mentionsTemplate reports whether a line begins with the key template, in any of the ways to write a key.
func mentionsTemplate(text []byte) bool {
	for line := range strings.Lines(string(text)) {
		line = strings.TrimLeft(line, " \ufeff{'\"")
		if rest, ok := strings.CutPrefix(line, "template"); ok && strings.HasPrefix(strings.TrimLeft(rest, "'\" "), ":") {
			return true
		}
	}
	return false
}

// load adds the templates of a file.
func (t *Templates) load(file string, text []byte, found *findings) {
	own := &findings{file: file}
	documents := parseAll(text, own)
	var loaded []*template
	for _, document := range documents {
		root := &cursor{value: document}
		at := root.get("template")
		if !at.is(mapping) {
			continue
		}
		one := &template{
			id:      at.get("identifier").scalarText(),
			version: at.get("versionLabel").scalarText(),
			org:     at.get("orgIdentifier").scalarText(),
			project: at.get("projectIdentifier").scalarText(),
			kind:    at.get("type").scalarText(),
			stable:  at.get("stable").scalarText() == "true",
			spec:    at.get("spec"),
			file:    file,
			line:    at.line,
		}
		switch {
		case at.get("templateRef") != nil:
			continue // part of something that uses a template
		case one.id == "" || !one.spec.is(mapping):
			found.report(SeverityWarning, "template-unreadable", at.place(), at.path(), "this template has no identifier or no spec: nothing can use it", "")
			continue
		}
		for _, other := range t.byID[one.id] {
			if other.version == one.version && other.org == one.org && other.project == one.project {
				found.report(SeverityWarning, "template-duplicate", at.place(), at.path(),
					fmt.Sprintf("%s is in %s already; that one is used", one, other.file), "keep one of them")
			}
		}
		t.byID[one.id] = append(t.byID[one.id], one)
		loaded = append(loaded, one)
	}
	list := own.sorted()
	if len(loaded) == 0 && list.HasErrors() {
		// It should have had templates, to go by its text.
		for _, d := range list {
			if d.Severity == SeverityError {
				d.Severity, d.Code = SeverityWarning, "template-unreadable"
				found.add(d)
				break
			}
		}
	}
	if len(loaded) > 0 {
		loaded[0].found = list
		for _, one := range loaded[1:] {
			one.found = list
		}
	}
}

// String names a template for people.
func (t *template) String() string {
	if t.version == "" {
		return "template " + quote(t.id)
	}
	return fmt.Sprintf("template %s, version %s", quote(t.id), quote(t.version))
}

// reference is what a pipeline says about the template it uses.
type reference struct {
	ref, version string // as written
	org, project string // of the pipeline, "" where it does not say
	kind         string // of the node
}

// lookupError says why there is no template for a reference.
type lookupError struct{ code, message, fix string }

// find chooses the template for a reference. Of several versions it is the one that is named; else the stable one; else the highest,
// and then chosen says so. Of templates in several scopes it is the one closest to the pipeline.
func (t *Templates) find(r reference, suggest bool) (one *template, chosen string, bad *lookupError) {
	scope, id := "", r.ref
	for _, s := range [...]string{"account", "org", "project"} {
		if rest, ok := strings.CutPrefix(r.ref, s+"."); ok {
			scope, id = s, rest
		}
	}
	if len(t.byID[id]) == 0 {
		fix := ""
		if suggest {
			fix = t.nearTo(id)
		}
		return nil, "", &lookupError{"template-unresolved", fmt.Sprintf("there is no template %s", quote(id)), fix}
	}
	inScope := closest(t.byID[id], scope, r)
	if len(inScope) == 0 {
		return nil, "", &lookupError{"template-unresolved",
			fmt.Sprintf("template %s is there, but in no scope that %s names", quote(id), quote(r.ref)),
			"compare orgIdentifier and projectIdentifier of the template with those of the pipeline"}
	}
	ofKind := slices.DeleteFunc(slices.Clone(inScope), func(one *template) bool { return one.kind != r.kind })
	if len(ofKind) == 0 {
		return nil, "", &lookupError{"template-wrong-type", fmt.Sprintf("%s has the type %s, and is used as a %s", inScope[0], quote(inScope[0].kind), r.kind), ""}
	}
	if r.version != "" {
		for _, one := range ofKind {
			if one.version == r.version {
				return one, "", nil
			}
		}
		return nil, "", &lookupError{"template-version", fmt.Sprintf("template %s has no version %s", quote(id), quote(r.version)), "there are " + versions(ofKind)}
	}
	for _, one := range ofKind {
		if one.stable {
			return one, "", nil
		}
	}
	one = slices.MaxFunc(ofKind, func(a, b *template) int { return natural(a.version, b.version) })
	return one, fmt.Sprintf("no version of template %s is named, and none is stable: %s is used, the highest of %s", quote(id), quote(one.version), versions(ofKind)), nil
}

// nearTo is the fix for an identifier that is not there.
func (t *Templates) nearTo(id string) string {
	ids := make([]string, 0, len(t.byID))
	for known := range t.byID {
		ids = append(ids, known)
	}
	slices.Sort(ids)
	if name := nearest.Name(id, ids); name != "" {
		return "did you mean " + name + "?"
	}
	return fmt.Sprintf("the directory has %d others", len(ids))
}

// versions lists the versions for people.
func versions(list []*template) string {
	const most = 10
	var names []string
	for _, one := range list {
		names = append(names, quote(one.version))
	}
	slices.SortFunc(names, natural)
	names = slices.Compact(names)
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[more:], ", "), more)
	}
	return strings.Join(names, ", ")
}

// closest returns the templates of the scope that a reference names: account and org by their prefix, and without one, what is the
// pipeline's own or does not say whose it is. Those that name more of what the pipeline is in come first, and leave out the others.
func closest(list []*template, scope string, r reference) []*template {
	var best []*template
	most := -1
	for _, one := range list {
		fits := (one.org == "" || r.org == "" || one.org == r.org) && (one.project == "" || r.project == "" || one.project == r.project)
		switch scope {
		case "account":
			fits = one.org == "" && one.project == ""
		case "org":
			fits = fits && one.project == ""
		}
		if !fits {
			continue
		}
		named := 0
		if one.org != "" && one.org == r.org {
			named++
		}
		if one.project != "" && one.project == r.project {
			named++
		}
		if named > most {
			best, most = nil, named
		}
		if named == most {
			best = append(best, one)
		}
	}
	return best
}

// natural compares names as people do: runs of digits by their number (v9 < v10), the rest byte by byte.
func natural(a, b string) int {
	full := strings.Compare(a, b)
	for a != "" && b != "" {
		if !isDigit(a[0]) || !isDigit(b[0]) {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		var m, n string
		m, a = digits(a)
		n, b = digits(b)
		if c := cmp.Or(cmp.Compare(len(m), len(n)), strings.Compare(m, n)); c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(len(a), len(b)), full)
}

// digits cuts a run of digits off, without its leading zeros.
func digits(s string) (run, rest string) {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return strings.TrimLeft(s[:n], "0"), s[n:]
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
