package suite

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Time     string      `xml:"time,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string       `xml:"name,attr"`
	Class   string       `xml:"classname,attr"`
	File    string       `xml:"file,attr"`
	Line    int          `xml:"line,attr,omitempty"`
	Time    string       `xml:"time,attr"`
	Failure *junitDetail `xml:"failure"`
	Error   *junitDetail `xml:"error"`
}

type junitDetail struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// Unusable is a test file that could not be run.
type Unusable struct {
	File string `json:"file"`
	Err  error  `json:"-"`
}

// WriteJUnit writes the reports as JUnit XML: a suite for each file, an error for each that could not be run.
func WriteJUnit(w io.Writer, reports []*Report, unusable []Unusable) error {
	var all junitSuites
	for _, u := range unusable {
		all.Errors++
		all.Suites = append(all.Suites, junitSuite{Name: u.File, Tests: 1, Errors: 1, Time: seconds(0), Cases: []junitCase{{
			Name: "the file can be run", Class: u.File, File: u.File, Time: seconds(0), Error: &junitDetail{"the file cannot be run", u.Err.Error()},
		}}})
	}
	for _, r := range reports {
		s := junitSuite{Name: r.File, Tests: len(r.Tests), Failures: r.Failed()}
		var took time.Duration
		for i := range r.Tests {
			t := &r.Tests[i]
			c := junitCase{Name: t.Name, Class: r.File, File: r.File, Line: t.Line, Time: seconds(t.Took)}
			took += t.Took
			if !t.Passed {
				c.Failure = &junitDetail{Message: t.Mismatches[0].What, Text: mismatchText(t.Mismatches)}
			}
			s.Cases = append(s.Cases, c)
		}
		s.Time = seconds(took)
		all.Failures += s.Failures
		all.Suites = append(all.Suites, s)
	}
	for i := range all.Suites {
		all.Tests += all.Suites[i].Tests
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(&all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func mismatchText(all []Mismatch) string {
	var b strings.Builder
	for i := range all {
		for _, line := range all[i].Lines() {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// Lines writes the mismatch for people: what is compared, then what was wanted and what came, below each other.
func (m *Mismatch) Lines() []string {
	lines := []string{m.What, "  want " + m.Want, "  got  " + m.Got}
	if m.Differs != "" {
		lines = append(lines, "  differs "+m.Differs)
	}
	return lines
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
