package verify

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// allowedImports are those outside the standard library. It must not look at streams as the workers do: neither consumer nor publish.
var allowedImports = []string{
	"github.com/nats-io/nats.go", "github.com/nats-io/nats.go/jetstream",
	"github.com/recourse-dev/recourse", "github.com/recourse-dev/recourse/internal/broker", "github.com/recourse-dev/recourse/internal/decide",
	"github.com/recourse-dev/recourse/internal/pipeline", "github.com/recourse-dev/recourse/internal/retry",
}

func TestImports(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
				continue // standard library
			}
			used[path] = true
			if !slices.Contains(allowedImports, path) {
				t.Errorf("%s imports %s, which is not among the allowed imports of this package", file, path)
			}
		}
	}
	for _, path := range allowedImports {
		if !used[path] {
			t.Errorf("%s is allowed, but nothing imports it", path)
		}
	}
}
