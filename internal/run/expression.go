package run

import (
	"regexp"
	"strconv"
	"strings"
)

// innermost is an expression that has none inside.
var innermost = regexp.MustCompile(`<\+([^<>]+)>`)

// mostNested bounds how deep expressions stand in the values of others.
const mostNested = 10

// scope is where an expression stands: which stage, step group and step it can name, and the values of the iterations around it.
type scope struct {
	program            *program
	stage, group, step *node
	values             map[string]string
}

// expand puts values in place of the expressions that are known, and returns those that are not; they stay as they are.
func (s *scope) expand(text string) (expanded string, unknown []string) {
	for range mostNested {
		known := false
		unknown = nil
		text = innermost.ReplaceAllStringFunc(text, func(expression string) string {
			value, ok := s.value(strings.TrimSpace(expression[2 : len(expression)-1]))
			if !ok || strings.Contains(value, expression) {
				unknown = append(unknown, expression)
				return expression
			}
			known = true
			return value
		})
		if !known {
			return text, unknown
		}
	}
	return text, append(unknown, "expressions nested deeper than "+strconv.Itoa(mostNested))
}

// value returns the value of an expression.
func (s *scope) value(name string) (string, bool) {
	if value, ok := s.values[name]; ok {
		return value, true
	}
	if value, ok := s.program.vars[name]; ok && strings.Contains(name, ".") {
		return value, true // given for the expression itself
	}
	head, rest, _ := strings.Cut(name, ".")
	var at *node
	switch head {
	case "pipeline":
		at = s.program.root
		if rest == "executionId" {
			return s.program.ref.Execution, true
		}
		if other, ok := strings.CutPrefix(rest, "stages."); ok {
			var id string
			id, rest, _ = strings.Cut(other, ".")
			head, at = "stage", s.program.stage(id)
		}
	case "stage":
		at = s.stage
	case "stepGroup":
		at = s.group
	case "step":
		at = s.step
	}
	if at == nil || rest == "" {
		return "", false
	}
	if variable, ok := strings.CutPrefix(rest, "variables."); ok && head != "step" {
		return s.variable(at, variable, head == "pipeline")
	}
	of := at
	for key := range strings.SplitSeq(rest, ".") {
		at = at.get(key)
	}
	value := at.text()
	if value == "" && rest == "name" {
		value = of.get("identifier").text() // what has no name is called by that
	}
	return value, value != ""
}

// variable returns a variable that a pipeline or stage declares: as it was given, else its value, else its default.
func (s *scope) variable(at *node, name string, undeclared bool) (string, bool) {
	given, ok := s.program.vars[name]
	for _, v := range at.get("variables").items() {
		if v.get("name").text() != name {
			continue
		}
		if ok {
			return given, true
		}
		return declared(v)
	}
	return given, ok && undeclared
}

// inputDefault is what an input says that counts where nothing is given.
var inputDefault = regexp.MustCompile(`^<\+input>.*?\.default\((?:"([^"]*)"|'([^']*)'|([^()]*))\)`)

// declared returns the value of a variable as the YAML has it: its value, else its default.
func declared(variable *node) (string, bool) {
	value := variable.get("value")
	if value != nil && !strings.HasPrefix(value.text(), "<+input>") {
		return value.text(), true
	}
	if at := variable.get("default"); at != nil && !strings.HasPrefix(at.text(), "<+input>") {
		return at.text(), true
	}
	if found := inputDefault.FindStringSubmatch(value.text()); found != nil {
		return found[1] + found[2] + found[3], true
	}
	return "", false
}
