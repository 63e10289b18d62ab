package run

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

// allowedImports are those outside the standard library. The engine needs none that do I/O.
var allowedImports = []string{
	"github.com/expr-lang/expr", "github.com/expr-lang/expr/ast", "github.com/expr-lang/expr/file", "github.com/expr-lang/expr/vm", "github.com/go-json-experiment/json", "github.com/nats-io/nats.go", "github.com/nats-io/nats.go/jetstream", "github.com/nats-io/nuid", "go.yaml.in/yaml/v4",
	"github.com/recourse-dev/recourse", "github.com/recourse-dev/recourse/client", "github.com/recourse-dev/recourse/internal/broker",
	"github.com/recourse-dev/recourse/internal/decide", "github.com/recourse-dev/recourse/internal/pipeline",
	"github.com/recourse-dev/recourse/internal/simulate", "github.com/recourse-dev/recourse/internal/worker",
}

// pure are the files of the engine: they compute.
var pure = []string{"engine.go", "carry.go", "condition.go", "result.go", "spec.go", "expression.go", "stub.go"}

func TestImports(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
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
			if slices.Contains(pure, file) && slices.Contains([]string{"os", "os/exec", "io", "net", "context", "sync", "github.com/recourse-dev/recourse/client", "github.com/recourse-dev/recourse/internal/broker", "github.com/recourse-dev/recourse/internal/worker"}, path) {
				t.Errorf("%s imports %s: the engine does no I/O", file, path)
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
