package observability

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.yaml.in/yaml/v4"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
	"github.com/recourse-dev/recourse/internal/worker"
)

// patience bounds whatever a test waits for.
const patience = 30 * time.Second

// metric is a row of the table in docs/telemetry.md.
type metric struct {
	otel   string
	names  []string // as Prometheus has them
	labels []string
}

var row = regexp.MustCompile("(?m)^\\| `([a-z._]+)` \\| `([a-z_]+)` \\| ([a-z]+)[^|]*\\|([^|]*)\\|")

// documented reads the table of metrics of docs/telemetry.md.
func documented(t *testing.T) []metric {
	t.Helper()
	var metrics []metric
	_, text, _ := strings.Cut(read(t, "../../docs/telemetry.md"), "\n## Metrics\n")
	text, _, _ = strings.Cut(text, "\n## ")
	for _, cells := range row.FindAllStringSubmatch(text, -1) {
		m := metric{otel: cells[1], names: []string{cells[2]}, labels: regexp.MustCompile("[a-z_]+").FindAllString(cells[4], -1)}
		if cells[3] == "histogram" {
			m.names = []string{cells[2] + "_bucket", cells[2] + "_sum", cells[2] + "_count"}
			m.labels = append(m.labels, "le")
		}
		metrics = append(metrics, m)
	}
	if len(metrics) < 14 {
		t.Fatalf("the table of docs/telemetry.md has only %d metrics that can be read", len(metrics))
	}
	return metrics
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// alert is an alert of rules.yml.
type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "rules.yml")), &file); err != nil {
		t.Fatal(err)
	}
	var all []alert
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("rules.yml has no rules")
	}
	return all
}

// dashboard is what the tests look at of the dashboard.
type dashboard struct {
	UID        string `json:"uid"`
	Templating struct {
		List []struct {
			Name, Type string
			Definition string
		} `json:"list"`
	} `json:"templating"`
	Panels []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ X, Y, W, H int } `json:"gridPos"`
		Targets []struct {
			Expr, Query string
			Exemplar    bool
		} `json:"targets"`
	} `json:"panels"`
}

func board(t *testing.T) *dashboard {
	t.Helper()
	d := &dashboard{}
	if err := json.Unmarshal([]byte(read(t, "grafana/dashboards/recourse.json")), d); err != nil {
		t.Fatal(err)
	}
	return d
}

// expressions are those of rules and dashboard, with where they stand.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, a := range alerts(t) {
		all["alert "+a.Alert] = a.Expr
	}
	d := board(t)
	for _, p := range d.Panels {
		for i, target := range p.Targets {
			if target.Expr != "" {
				all[fmt.Sprintf("panel %s, query %d", p.Title, i+1)] = target.Expr
			}
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			all["variable "+v.Name] = v.Definition
		}
	}
	return all
}

// ours are the words of an expression that are names of Recourse: of metrics or of labels.
var ours = regexp.MustCompile(`\b(recourse|cicd|messaging|error)_[a-z_]+\b`)

// TestNames: each metric and each label that rules and dashboard name is in the table of docs/telemetry.md, and each label is one of a metric
// of the same expression; and each metric of the table is on the dashboard.
func TestNames(t *testing.T) {
	metrics := documented(t)
	shown := map[string]bool{}
	for where, expr := range expressions(t) {
		words := ours.FindAllString(expr, -1)
		labels := map[string]bool{}
		for _, m := range metrics {
			if slices.ContainsFunc(m.names, func(name string) bool { return slices.Contains(words, name) }) {
				shown[m.otel] = shown[m.otel] || strings.HasPrefix(where, "panel ")
				for _, label := range m.labels {
					labels[label] = true
				}
			}
		}
		for _, word := range words {
			isMetric := slices.ContainsFunc(metrics, func(m metric) bool { return slices.Contains(m.names, word) })
			if !isMetric && !labels[word] {
				t.Errorf("%s: %s is neither a metric of docs/telemetry.md nor a label of one in the expression", where, word)
			}
		}
	}
	for _, m := range metrics {
		if !shown[m.otel] {
			t.Errorf("%s is nowhere on the dashboard", m.otel)
		}
	}
}

// rare are the metrics that appear only once something went wrong; that they are instruments is seen in the source.
var rare = []string{"recourse.conflicts", "recourse.waits.rearmed", "cicd.system.errors"}

// TestWorkerExportsThem: a worker that did a little of everything has on /metrics what docs/telemetry.md lists, with these labels, and
// nothing else that begins alike.
func TestWorkerExportsThem(t *testing.T) {
	exported := scrape(t)
	metrics := documented(t)
	known := map[string]bool{}
	for _, m := range metrics {
		for _, name := range m.names {
			known[name] = true
			labels, found := exported[name]
			if !found && !slices.Contains(rare, m.otel) {
				t.Errorf("%s is listed, but a worker does not export it", name)
			}
			for _, label := range labels {
				if !slices.Contains(m.labels, label) {
					t.Errorf("%s has a label %s that is not listed", name, label)
				}
			}
			if found {
				for _, label := range m.labels {
					if label != "le" && !slices.Contains(labels, label) {
						t.Errorf("%s has no label %s", name, label)
					}
				}
			}
		}
	}
	for name := range exported {
		if ours.MatchString(name) && !known[name] {
			t.Errorf("a worker exports %s, which is not listed in docs/telemetry.md", name)
		}
	}
	sources, err := filepath.Glob("../../internal/telemetry/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, file := range sources {
		source.WriteString(read(t, file))
	}
	for _, name := range rare[:2] {
		if !strings.Contains(source.String(), `"`+name+`"`) {
			t.Errorf("internal/telemetry has no instrument %s", name)
		}
	}
	if !strings.Contains(source.String(), "cicdconv.NewSystemErrors(") {
		t.Error("internal/telemetry has no instrument cicd.system.errors")
	}
}

var sample = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{([^}]*)\})? `)

// scrape runs a worker on a failure with a retry, the same failure again, a pause and an input nobody can read, and returns the metrics with
// their labels.
func scrape(t *testing.T) map[string][]string {
	t.Helper()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin := free.Addr().String()
	_ = free.Close()
	ctx, stop := context.WithCancel(context.Background())
	url, over := make(chan string, 1), make(chan error, 1)
	go func() {
		over <- worker.Run(ctx, worker.Config{
			Embedded:    broker.EmbeddedConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Sync: broker.SyncInterval},
			AdminListen: admin, Ready: func(at string) { url <- at },
		})
	}()
	defer func() {
		stop()
		select {
		case err := <-over:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the worker did not stop")
		}
	}()
	var nc *nats.Conn
	select {
	case at := <-url:
		if nc, err = nats.Connect(at); err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the worker did not start")
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	work(t, js)

	wanted := []string{"recourse_retry_lateness_seconds_bucket", "recourse_rejected_total", "recourse_inputs_unrecorded_total", "recourse_interventions_open"}
	exported := map[string][]string{}
	for deadline := time.Now().Add(patience); ; {
		response, err := http.Get("http://" + admin + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		clear(exported)
		for _, m := range sample.FindAllStringSubmatch(string(text), -1) {
			for _, pair := range strings.Split(m[2], `",`) {
				label, _, _ := strings.Cut(pair, "=")
				if label != "" && !slices.Contains(exported[m[1]], label) {
					exported[m[1]] = append(exported[m[1]], label)
				} else if _, seen := exported[m[1]]; !seen {
					exported[m[1]] = nil
				}
			}
		}
		if !slices.ContainsFunc(wanted, func(name string) bool { _, found := exported[name]; return !found }) {
			return exported
		}
		if time.Now().After(deadline) {
			t.Fatalf("not all of %q are on /metrics:\n%s", wanted, text)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func work(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	ref := recourse.Ref{Account: "acme", Org: "o", Project: "p", Pipeline: "pl", Execution: "e"}
	bucket, err := js.KeyValue(t.Context(), recourse.BucketPipelines)
	if err != nil {
		t.Fatal(err)
	}
	const pipeline = `
pipeline:
  identifier: pl
  stages:
    - stage:
        identifier: s
        type: Custom
        spec:
          execution:
            steps:
              - step:
                  identifier: again
                  type: ShellScript
                  timeout: 10m
                  failureStrategies:
                    - onFailure:
                        errors: [AllErrors]
                        action: {type: Retry, spec: {retryCount: 1, retryIntervals: [1s], onRetryFailure: {action: {type: Abort}}}}
              - step:
                  identifier: ask
                  type: ShellScript
                  timeout: 10m
                  failureStrategies:
                    - onFailure:
                        errors: [AllErrors]
                        action: {type: ManualIntervention, spec: {timeout: 1h, onTimeout: {action: {type: Abort}}}}
`
	if _, err := bucket.PutString(t.Context(), ref.PipelineKey(), pipeline); err != nil {
		t.Fatal(err)
	}
	for _, body := range [][]byte{failure(t, ref, "s/again"), failure(t, ref, "s/again"), failure(t, ref, "s/ask"), []byte("{")} {
		if _, err := js.Publish(t.Context(), ref.Subject(recourse.FamilyFailure, "me"), body); err != nil {
			t.Fatal(err)
		}
	}
}

func failure(t *testing.T, ref recourse.Ref, node string) []byte {
	t.Helper()
	body, err := recourse.Encode(&recourse.Failure{
		Schema: recourse.Schema, Ref: ref, Node: recourse.Node{Path: node}, Attempt: 1, Errors: recourse.ErrorTypesOf(recourse.Timeout),
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TestRunbook: each alert has a severity, what people need, and a section of the runbook of its name; the runbook has no other.
func TestRunbook(t *testing.T) {
	runbook := read(t, "../../docs/runbook.md")
	var headings []string
	for _, m := range regexp.MustCompile(`(?m)^## (Recourse\w+)$`).FindAllStringSubmatch(runbook, -1) {
		headings = append(headings, m[1])
	}
	var names []string
	for _, a := range alerts(t) {
		names = append(names, a.Alert)
		if want := "docs/runbook.md#" + strings.ToLower(a.Alert); a.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url is %q, want %q", a.Alert, a.Annotations["runbook_url"], want)
		}
		if a.Labels["severity"] != "critical" && a.Labels["severity"] != "warning" || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s: %+v", a.Alert, a)
		}
	}
	slices.Sort(names)
	sorted := slices.Clone(headings)
	slices.Sort(sorted)
	if !slices.Equal(names, sorted) {
		t.Errorf("alerts %q, sections of the runbook %q", names, sorted)
	}
	tested := read(t, "rules_test.yml")
	for _, name := range names {
		if !regexp.MustCompile(`alertname: ` + name + `\n +exp_alerts:|alertname: ` + name + `, exp_alerts:`).MatchString(tested) {
			t.Errorf("rules_test.yml never sees %s fire", name)
		}
	}
	commands := regexp.MustCompile("`recourse ([a-z-]+)").FindAllStringSubmatch(runbook, -1)
	main := read(t, "../../cmd/recourse/command.go")
	for _, c := range commands {
		if !strings.Contains(strings.ToLower(main), "."+c[1]+"(") {
			t.Errorf("the runbook names recourse %s, which is no command", c[1])
		}
	}
}

// TestDashboard: panels neither overlap nor share an id, the latencies lead to traces, and each variable that is used is there.
func TestDashboard(t *testing.T) {
	d := board(t)
	ids := map[int]bool{}
	taken := map[[2]int]string{}
	exemplars, traces := 0, 0
	var text strings.Builder
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q: id %d is there twice", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %q overlaps %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			text.WriteString(target.Expr + "\n")
			if target.Query != "" {
				traces++
			}
			if target.Exemplar {
				exemplars++
			}
		}
	}
	if exemplars < 6 || traces == 0 {
		t.Errorf("%d queries with exemplars, %d of traces", exemplars, traces)
	}
	for _, m := range regexp.MustCompile(`\$([a-z]+)\b`).FindAllStringSubmatch(text.String(), -1) {
		known := false
		for _, v := range d.Templating.List {
			known = known || v.Name == m[1]
		}
		if !known {
			t.Errorf("the variable %s is not there", m[1])
		}
	}
	link := read(t, "grafana/provisioning/datasources/recourse.yaml")
	if !strings.Contains(link, "exemplarTraceIdDestinations") || !strings.Contains(link, "name: trace_id") {
		t.Error("the exemplars of the data source lead nowhere")
	}
}

// TestExpressions has promtool parse what the dashboard asks, with values for its variables; $PROMTOOL or the one on the path.
func TestExpressions(t *testing.T) {
	promtool := os.Getenv("PROMTOOL")
	if promtool == "" {
		var err error
		if promtool, err = exec.LookPath("promtool"); err != nil {
			t.Skip("SKIP the expressions of the dashboard: promtool is not there; .ci/observability gets it")
		}
	}
	values := strings.NewReplacer("$__rate_interval", "1m", "$__range", "6h", "$job", ".*", "$instance", ".*", "$action", ".*")
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var rules []rule
	for where, expr := range expressions(t) {
		if !strings.HasPrefix(where, "variable ") {
			rules = append(rules, rule{fmt.Sprintf("panel:%d", len(rules)), values.Replace(expr)})
		}
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s\n%s", err, out, text)
	}
}
