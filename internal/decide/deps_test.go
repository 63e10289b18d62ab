package decide_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestImports keeps the package pure: the vocabulary, the delays, and of the standard library what computes only. Of package time it uses
// values, never a clock.
func TestImports(t *testing.T) {
	allowed := []string{
		"cmp", "errors", "fmt", "slices", "strings", "time",
		"github.com/recourse-dev/recourse", "github.com/recourse-dev/recourse/internal/retry",
	}
	clocks := []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}
	for _, file := range sources(t) {
		for _, spec := range file.Imports {
			if path, _ := strconv.Unquote(spec.Path.Value); !slices.Contains(allowed, path) {
				t.Errorf("%s is imported", path)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, s.Sel.Name) {
					t.Errorf("time.%s is used: now is an argument", s.Sel.Name)
				}
			}
			if _, ok := n.(*ast.GoStmt); ok {
				t.Error("a goroutine is started")
			}
			return true
		})
	}
}

func sources(t *testing.T) (files []*ast.File) {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
	}
	if len(files) == 0 {
		t.Fatal("no sources found")
	}
	return files
}
