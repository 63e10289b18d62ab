package pipeline

import (
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestImports: this package reads YAML and nothing else. It meets the rest of the engine in the vocabulary, in the plan and in the
// policy of a retry.
func TestImports(t *testing.T) {
	allowed := map[string]bool{
		"github.com/recourse-dev/recourse":                  true,
		"github.com/recourse-dev/recourse/internal/decide":  true,
		"github.com/recourse-dev/recourse/internal/nearest": true,
		"github.com/recourse-dev/recourse/internal/retry":   true,
		"go.yaml.in/yaml/v4":                                true,
		"github.com/expr-lang/expr":                         true,
		"github.com/expr-lang/expr/ast":                     true,
		"github.com/expr-lang/expr/file":                    true,
		"github.com/expr-lang/expr/parser":                  true,
		"github.com/expr-lang/expr/vm":                      true,
	}
	for _, std := range []string{"bytes", "cmp", "encoding/binary", "errors", "fmt", "hash/maphash", "io", "io/fs", "math", "path", "regexp", "regexp/syntax", "slices", "strconv", "strings", "sync", "time", "unicode", "unicode/utf8"} {
		allowed[std] = true
	}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, file := range files {
		name := file.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		checked++
		for _, spec := range parsed.Imports {
			if path, _ := strconv.Unquote(spec.Path.Value); !allowed[path] {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
	if checked == 0 {
		t.Error("no file was checked")
	}
}
