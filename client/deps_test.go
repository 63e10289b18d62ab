package client

import (
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// What the package may import beside the standard library. Users get all of this with it, so it grows only with a reason; and
// nothing of internal/, for this package is the outside.
var allowedImports = map[string]bool{
	"github.com/recourse-dev/recourse":           true, // the vocabulary
	"github.com/nats-io/nats.go":                 true,
	"github.com/nats-io/nats.go/jetstream":       true,
	"github.com/nats-io/nuid":                    true, // ids of answers
	"github.com/synadia-io/orbit.go/natscontext": true, // contexts of the nats command
	"go.opentelemetry.io/otel/propagation":       true, // W3C trace context
}

func TestImports(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".go") || strings.HasSuffix(file.Name(), "_test.go") {
			continue
		}
		checked++
		parsed, err := parser.ParseFile(token.NewFileSet(), file.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			standard := !strings.Contains(strings.SplitN(path, "/", 2)[0], ".")
			if !standard && !allowedImports[path] {
				t.Errorf("%s imports %s", file.Name(), path)
			}
		}
	}
	if checked == 0 {
		t.Error("no file was checked")
	}
}
