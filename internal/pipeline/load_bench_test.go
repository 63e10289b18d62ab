package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"github.com/recourse-dev/recourse"
)

// ordinary returns a pipeline of that many steps, ten in a stage: each stage with the strategies one writes, and a step with its own now
// and then.
func ordinary(steps int) []byte {
	var b strings.Builder
	b.WriteString("pipeline:\n  identifier: ordinary\n  name: ordinary\n  orgIdentifier: default\n  projectIdentifier: shop\n  stages:\n")
	for i := range steps {
		if i%10 == 0 {
			fmt.Fprintf(&b, `    - stage:
        identifier: stage%d
        type: Custom
        failureStrategies:
          - onFailure: {errors: [Timeout], action: {type: Retry, spec: {retryCount: 5, retryIntervals: [10s], onRetryFailure: {action: {type: MarkAsFailure}}}}}
          - onFailure:
              errors: [Connectivity]
              action:
                type: Retry
                spec:
                  retryCount: 3
                  condition: <+step.exitCode> != 2 && <+step.message> contains "reset"
                  backoff: {initial: 10s, multiplier: 2, max: 5m}
                  onRetryFailure: {action: {type: Abort}}
          - onFailure: {errors: [Authentication], action: {type: ManualIntervention, spec: {timeout: 1d, onTimeout: {action: {type: Abort}}}}}
          - onFailure: {errors: [AllErrors], action: {type: MarkAsFailure}}
        spec:
          execution:
            steps:
`, i/10)
		}
		fmt.Fprintf(&b, `              - step:
                  identifier: step%d
                  name: Step %d
                  type: ShellScript
                  timeout: 10m
                  spec:
                    shell: Bash
                    source:
                      type: Inline
                      spec:
                        script: |-
                          set -eu
                          kubectl rollout status deployment/web --timeout=60s
                          curl -fsS https://example.com/health
                    environmentVariables: []
`, i, i)
		if i%3 == 0 {
			b.WriteString("                  failureStrategies:\n                    - onFailure: {errors: [Unknown], action: {type: Ignore}}\n                    - onFailure: {errors: [Authorization], action: {type: MarkAsSuccess}}\n")
		}
	}
	return []byte(b.String())
}

// BenchmarkLoad is what a worker pays for a pipeline it has not seen: with much that other plans have, or with nothing.
func BenchmarkLoad(b *testing.B) {
	for _, steps := range []int{20, 50, 200} {
		yaml := ordinary(steps)
		for name, shared := range map[string]*Shared{"alone": nil, "shared": NewShared()} {
			b.Run(fmt.Sprintf("steps=%d/%s", steps, name), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(yaml)))
				for b.Loop() {
					if plan, found := Load("p", yaml, Options{Semantics: recourse.Engine, Shared: shared}); plan == nil || len(found) > 0 {
						b.Fatal(found)
					}
				}
			})
		}
	}
}

// BenchmarkParse compares the two ways to read YAML.
func BenchmarkParse(b *testing.B) {
	text := ordinary(50)
	for name, parse := range map[string]func([]byte, *findings) *value{"plain": plain, "library": parseAny} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if parse(text, &findings{}) == nil {
					b.Fatal("not read")
				}
			}
		})
	}
}
