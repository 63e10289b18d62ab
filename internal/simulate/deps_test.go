package simulate

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestImports: a run is a function of its arguments. It has the engine and the structure of the pipeline, and no clock, file or chance.
// The package below it reads test files.
func TestImports(t *testing.T) {
	const module = "github.com/recourse-dev/recourse"
	allowed := map[string][]string{
		".": {
			"container/heap", "errors", "fmt", "maps", "slices", "strconv", "strings", "time",
			module, module + "/internal/decide", module + "/internal/nearest", module + "/internal/pipeline",
		},
		"suite": {
			"bytes", "cmp", "encoding/xml", "errors", "fmt", "io", "maps", "path/filepath", "slices", "strconv", "strings", "time", "go.yaml.in/yaml/v4",
			module, module + "/internal/decide", module + "/internal/nearest", module + "/internal/pipeline", module + "/internal/simulate",
		},
	}
	clocks := []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}
	for dir, allowed := range allowed {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range file.Imports {
				if path, _ := strconv.Unquote(spec.Path.Value); !slices.Contains(allowed, path) {
					t.Errorf("%s imports %s", name, path)
				}
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, s.Sel.Name) {
						t.Errorf("%s uses time.%s: time is virtual here", name, s.Sel.Name)
					}
				}
				if _, ok := n.(*ast.GoStmt); ok {
					t.Errorf("%s starts a goroutine", name)
				}
				return true
			})
		}
	}
}
