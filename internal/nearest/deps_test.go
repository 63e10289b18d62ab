package nearest

import (
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"
)

// TestImports: the standard library is enough.
func TestImports(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "nearest.go", nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range file.Imports {
		if path, _ := strconv.Unquote(spec.Path.Value); !slices.Contains([]string{"fmt", "slices", "strings", "unicode"}, path) {
			t.Errorf("nearest.go imports %s", path)
		}
	}
}
