package doctor

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// allowedImports are those outside the standard library.
var allowedImports = []string{
	"github.com/nats-io/nats.go",
	"github.com/nats-io/nats.go/jetstream",
	"github.com/recourse-dev/recourse",
	"github.com/recourse-dev/recourse/client",
	"github.com/recourse-dev/recourse/internal/broker",
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
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, src, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(path, "/")
			if !strings.Contains(first, ".") {
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
