package cli

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

// allowedImports are those outside the standard library, by directory. What is offline has no server to talk to.
var allowedImports = map[string][]string{
	".": {
		"github.com/go-json-experiment/json", "github.com/go-json-experiment/json/jsontext", "github.com/spf13/cobra", "github.com/spf13/pflag",
		"github.com/recourse-dev/recourse", "github.com/recourse-dev/recourse/internal/nearest",
		"github.com/recourse-dev/recourse/internal/pipeline",
	},
	"offline": {
		"github.com/spf13/cobra",
		"github.com/recourse-dev/recourse", "github.com/recourse-dev/recourse/internal/cli", "github.com/recourse-dev/recourse/internal/decide",
		"github.com/recourse-dev/recourse/internal/pipeline", "github.com/recourse-dev/recourse/internal/simulate",
		"github.com/recourse-dev/recourse/internal/simulate/suite",
	},
	"online": {
		"github.com/nats-io/nats.go", "github.com/nats-io/nats.go/jetstream", "github.com/spf13/cobra", "github.com/spf13/pflag",
		"go.yaml.in/yaml/v4",
		"github.com/recourse-dev/recourse", "github.com/recourse-dev/recourse/client", "github.com/recourse-dev/recourse/internal/cli",
		"github.com/recourse-dev/recourse/internal/doctor", "github.com/recourse-dev/recourse/internal/history", "github.com/recourse-dev/recourse/internal/incident",
		"github.com/recourse-dev/recourse/internal/verify",
		"github.com/recourse-dev/recourse/internal/pipeline", "github.com/recourse-dev/recourse/internal/publish",
		"github.com/recourse-dev/recourse/internal/run", "github.com/recourse-dev/recourse/internal/simulate",
	},
	"measure": {
		"github.com/nats-io/nats.go", "github.com/spf13/cobra", "go.uber.org/zap/zapcore",
		"github.com/recourse-dev/recourse/client", "github.com/recourse-dev/recourse/internal/bench", "github.com/recourse-dev/recourse/internal/broker",
		"github.com/recourse-dev/recourse/internal/cli", "github.com/recourse-dev/recourse/internal/cli/online", "github.com/recourse-dev/recourse/internal/telemetry",
		"github.com/recourse-dev/recourse/internal/worker",
	},
}

func TestImports(t *testing.T) {
	for dir, allowed := range allowedImports {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
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
				if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
					continue // standard library
				}
				used[path] = true
				if !slices.Contains(allowed, path) {
					t.Errorf("%s imports %s, which is not among the allowed imports of this package", file, path)
				}
			}
		}
		for _, path := range allowed {
			if !used[path] {
				t.Errorf("%s: %s is allowed, but nothing imports it", dir, path)
			}
		}
	}
}
