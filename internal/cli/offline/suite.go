package offline

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/pipeline"
	"github.com/recourse-dev/recourse/internal/simulate/suite"
)

// Test returns the command that runs test files for the failure handling of pipelines.
func Test(format *cli.Format) *cobra.Command {
	t := &testRun{format: format}
	cmd := &cobra.Command{
		Use:   "test FILE…",
		Short: "Run tests for the failure handling of pipelines",
		Long: `Test runs the tests in test files: scenarios, which are simulated, and single decisions. docs/testing.md has the format. A
directory stands for all *_test.yaml and *_test.yml files in and below it. It needs no server.

What is otherwise than expected is shown with what was wanted and what came, then the strategies that no test has reached.

The exit code is 1 where a test fails or too few strategies are reached, and 2 where a file cannot be run: it cannot be read, it has
an unknown key or node, or its pipeline has errors. The other files are run all the same.`,
		Example: `  recourse test .harness
  recourse test deploy_test.yaml --min-coverage 80% --junit report.xml`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeYAML,
		RunE:              t.run,
	}
	t.resolution.Register(cmd)
	f := cmd.Flags()
	f.StringVar(&t.junit, "junit", "", "write a JUnit report to this `file`")
	f.StringVar(&t.minimum, "min-coverage", "", "fail where fewer of the strategies are reached, in `percent`: 80%")
	f.BoolVar(&t.timeline, "timeline", false, "show the timeline of each scenario that fails")
	return cmd
}

// testRun is one call of test.
type testRun struct {
	format         *cli.Format
	junit, minimum string
	timeline       bool
	resolution     cli.Resolution
}

// tested is the output for programs.
type tested struct {
	Passed   int             `json:"passed"`
	Failed   int             `json:"failed"`
	Files    []*suite.Report `json:"files"`
	Unusable []unusableFile  `json:"unusable"`
	Coverage *suite.Coverage `json:"coverage"`
}

type unusableFile struct {
	File  string `json:"file"`
	Error string `json:"error"`
}

func (t *testRun) run(cmd *cobra.Command, args []string) error {
	minimum, err := percent(t.minimum)
	if err != nil {
		return cli.Usagef("--min-coverage: %w", err)
	}
	p := cli.NewPrinter(cmd, t.format)
	opt, err := t.resolution.Require(p, recourse.Documented) // each test has semantics of its own
	if err != nil {
		return err
	}
	files, unreadable := cli.TestFiles(args)
	all := tested{Files: []*suite.Report{}, Unusable: []unusableFile{}}
	var unusable []suite.Unusable
	for _, name := range files {
		report, err := runFile(cmd, name, opt)
		if err != nil {
			unusable = append(unusable, suite.Unusable{File: name, Err: err})
			all.Unusable = append(all.Unusable, unusableFile{name, err.Error()})
			continue
		}
		all.Files = append(all.Files, report)
		all.Failed += report.Failed()
		all.Passed += len(report.Tests) - report.Failed()
	}
	all.Coverage = suite.Cover(all.Files)
	if err := t.print(p, &all); err != nil {
		return err
	}
	if t.junit != "" {
		if err := writeJUnit(t.junit, all.Files, unusable); err != nil {
			return cli.Usagef("--junit: %w", err)
		}
	}
	for _, u := range unusable {
		unreadable = errors.Join(unreadable, u.Err)
	}
	switch {
	case unreadable != nil:
		return cli.Usagef("%w", unreadable)
	case all.Coverage.Percent < minimum:
		p.Note("%d%% of the strategies are reached, %d%% are wanted", all.Coverage.Percent, minimum)
		return cli.Failed()
	case all.Failed > 0:
		return cli.Failed()
	}
	return nil
}

func runFile(cmd *cobra.Command, name string, opt pipeline.Options) (*suite.Report, error) {
	content, err := cli.Read(name, cmd.InOrStdin(), suite.MaxSize)
	if err != nil {
		return nil, err
	}
	file, err := suite.Read(name, content)
	if err != nil {
		return nil, err
	}
	open := func(path string) ([]byte, error) { return cli.Read(path, nil, pipeline.MaxSize) }
	return file.Run(open, opt, time.Now)
}

// percent reads "80%" or "80"; "" is 0.
func percent(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(strings.TrimSuffix(text, "%"))
	if err != nil || n < 0 || n > 100 {
		return 0, fmt.Errorf("want 0%% to 100%%, got %q", text)
	}
	return n, nil
}

func writeJUnit(name string, reports []*suite.Report, unusable []suite.Unusable) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(suite.WriteJUnit(file, reports, unusable), file.Close())
}

func (t *testRun) print(p *cli.Printer, all *tested) error {
	if p.Format == cli.JSON {
		return p.JSON(all)
	}
	for _, report := range all.Files {
		for i := range report.Tests {
			if err := t.printTest(p, report, &report.Tests[i]); err != nil {
				return err
			}
		}
	}
	c := all.Coverage
	if len(c.Missed) > 0 {
		fmt.Fprintln(p.Out, "strategies that no test has reached:")
		rows := p.Rows()
		for _, s := range c.Missed {
			rows.Add(fmt.Sprintf("  %s:%d:%d", s.File, s.Line, s.Column), s.Level.String(), s.Node, s.Errors.String()+" → "+s.Action.String(), s.Path)
		}
		if err := rows.Flush(); err != nil {
			return err
		}
	}
	summary := fmt.Sprintf("%s passed", cli.Count(all.Passed, "test"))
	if all.Failed > 0 {
		summary = fmt.Sprintf("%s failed, %d passed", cli.Count(all.Failed, "test"), all.Passed)
	}
	if len(all.Unusable) > 0 {
		summary += fmt.Sprintf(", %s could not be run", cli.Count(len(all.Unusable), "file"))
	}
	_, err := fmt.Fprintf(p.Out, "%s; %d of %s reached, %d%%\n", summary, c.Reached, strategies(c.Strategies), c.Percent)
	return err
}

func strategies(n int) string {
	if n == 1 {
		return "1 strategy"
	}
	return strconv.Itoa(n) + " strategies"
}

func (t *testRun) printTest(p *cli.Printer, report *suite.Report, test *suite.TestReport) error {
	verdict := "ok  "
	if !test.Passed {
		verdict = "FAIL"
	}
	fmt.Fprintf(p.Out, "%s  %s:%d: %s\n", verdict, cli.Clean(report.File), test.Line, cli.Clean(test.Name))
	for i := range test.Mismatches {
		for _, line := range test.Mismatches[i].Lines() {
			fmt.Fprintf(p.Out, "      %s\n", cli.Clean(line))
		}
	}
	for _, note := range test.Notes {
		fmt.Fprintf(p.Out, "      note: %s\n", cli.Clean(note))
	}
	if test.Passed || !t.timeline || test.Result == nil {
		return nil
	}
	rows := p.Rows()
	for i := range test.Result.Events {
		e := &test.Result.Events[i]
		rows.Add("      t+"+e.At.String(), recourse.Node{Path: e.Node, Section: e.Section}.String(), e.Text())
	}
	return rows.Flush()
}
