package pipeline

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strconv"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
	"github.com/recourse-dev/recourse/internal/nearest"
)

// The bounds of a condition.
const (
	maxConditionLength = 4 << 10 // bytes
	maxConditionNodes  = 256     // operands and operators
	maxRegexp          = 1_000   // size of a pattern with its repetitions written out
	conditionMemory    = 10_000  // the evaluator's own unit: values it may make
)

// conditionEnv is everything a condition can see. The tags are what <+step.NAME> is turned into, see translate.
type conditionEnv struct {
	ExitCode int      `expr:"step_exitCode"`
	Message  string   `expr:"step_message"`
	Attempt  int      `expr:"step_attempt"`
	Errors   []string `expr:"step_errors"`
	Target   string   `expr:"step_target"`
}

// conditionNames are the values of a condition, in the order in which a reason lists them.
var conditionNames = []string{"exitCode", "message", "attempt", "errors", "target"}

const (
	exprPrefix = "step_"
	yamlPrefix = "<+step."
)

// condition is a compiled condition. It is immutable and safe for concurrent use.
type condition struct {
	text    string
	program *vm.Program
	uses    []string // of conditionNames
}

// conditionError is why a condition cannot be used; offset is where in the text, in bytes.
type conditionError struct {
	offset  int
	message string
}

func (e *conditionError) Error() string { return e.message }

// compileCondition compiles a condition (R4): comparisons, contains, startsWith, endsWith, matches, in, and, or, not over
// <+step.exitCode>, <+step.message>, <+step.attempt>, <+step.errors> and <+step.target>. Nothing else of the expression
// language is let through, so that evaluating one takes a bounded time and no memory to speak of. The error is a
// *conditionError.
func compileCondition(text string) (_ *condition, err error) {
	// The text is an outsider's and the compiler somebody else's.
	defer func() {
		if p := recover(); p != nil {
			err = &conditionError{0, "the condition cannot be compiled"}
		}
	}()
	if len(text) > maxConditionLength {
		return nil, &conditionError{0, fmt.Sprintf("a condition has at most %d bytes, this one has %d", maxConditionLength, len(text))}
	}
	if strings.TrimSpace(text) == "" {
		return nil, &conditionError{0, "the condition is empty"}
	}
	source, err := translate(text)
	if err != nil {
		return nil, err
	}
	tree, err := parser.Parse(source)
	if err != nil {
		return nil, compileError(err)
	}
	checked := gate{used: make(map[string]bool)}
	checked.node(tree.Node)
	if checked.err != nil {
		return nil, checked.err
	}
	program, err := expr.Compile(source, expr.Env(conditionEnv{}), expr.AsBool(), expr.DisableAllBuiltins(), expr.MaxNodes(maxConditionNodes), expr.Patch(membership{}))
	if err != nil {
		return nil, compileError(err)
	}
	c := &condition{text: text, program: program}
	for _, name := range conditionNames {
		if checked.used[exprPrefix+name] {
			c.uses = append(c.uses, name)
		}
	}
	return c, nil
}

func compileError(err error) error {
	message, offset := err.Error(), 0
	var at *file.Error
	if errors.As(err, &at) {
		message, offset = at.Message, at.From
	}
	message, _, _ = strings.Cut(message, "\n")
	for _, name := range conditionNames {
		message = strings.ReplaceAll(message, exprPrefix+name, yamlPrefix+name+">")
	}
	return &conditionError{offset, message}
}

// translate turns each <+step.NAME> outside of quotes into a name of conditionEnv, and pads it to the same length so that the
// positions of errors stay right.
func translate(text string) (string, error) {
	out := []byte(text)
	quoted := byte(0)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted != 0:
			if c == '\\' && quoted != '`' {
				i++
			} else if c == quoted {
				quoted = 0
			}
		case c == '"', c == '\'', c == '`':
			quoted = c
		case strings.HasPrefix(text[i:], "<+"):
			end := strings.IndexByte(text[i:], '>')
			if end < 0 {
				return "", &conditionError{i, "an expression <+… is not closed by >"}
			}
			name, isStep := strings.CutPrefix(text[i:i+end], yamlPrefix)
			if !isStep || !isConditionName(name) {
				message := fmt.Sprintf("a condition does not know %s, it knows <+step.%s>", quote(text[i:i+end+1]), strings.Join(conditionNames, ">, <+step."))
				if near := nearest.Name(name, conditionNames); near != "" && isStep {
					message += "; did you mean <+step." + near + ">?"
				}
				return "", &conditionError{i, message}
			}
			// "<+step.exitCode>" and "  step_exitCode " have the same length.
			copy(out[i:], "  "+exprPrefix+name+" ")
			i += end
		}
	}
	return string(out), nil
}

func isConditionName(name string) bool {
	for _, known := range conditionNames {
		if name == known {
			return true
		}
	}
	return false
}

// gate lets through what a condition may be made of.
type gate struct {
	used map[string]bool
	err  error
}

var conditionOperators = map[string]bool{
	"==": true, "!=": true, "<": true, "<=": true, ">": true, ">=": true, "contains": true, "startsWith": true, "endsWith": true,
	"matches": true, "in": true, "&&": true, "and": true, "||": true, "or": true,
}

func (g *gate) refuse(n ast.Node, message string) {
	if g.err == nil {
		g.err = &conditionError{n.Location().From, message}
	}
}

func (g *gate) node(n ast.Node) {
	switch n := n.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.StringNode:
	case *ast.IdentifierNode:
		if name, ok := strings.CutPrefix(n.Value, exprPrefix); !ok || !isConditionName(name) {
			g.refuse(n, fmt.Sprintf("a condition does not know %s: write <+step.exitCode>, and text in quotes", quote(n.Value)))
			return
		}
		g.used[n.Value] = true
	case *ast.UnaryNode:
		g.node(n.Node)
	case *ast.BinaryNode:
		g.binary(n)
	case *ast.PredicateNode, *ast.ArrayNode:
		g.refuse(n, "a list stands only to the right of in")
	default:
		g.refuse(n, "a condition has comparisons, contains, startsWith, endsWith, matches, in, and, or, not; nothing else")
	}
}

func (g *gate) binary(n *ast.BinaryNode) {
	if !conditionOperators[n.Operator] {
		g.refuse(n, fmt.Sprintf("a condition has no operator %s", quote(n.Operator)))
		return
	}
	g.node(n.Left)
	switch pattern, isText := n.Right.(*ast.StringNode); {
	case n.Operator == "matches" && !isText:
		g.refuse(n, "the pattern of matches is text in quotes")
	case n.Operator == "matches":
		g.pattern(pattern)
	}
	list, isList := n.Right.(*ast.ArrayNode)
	if !isList || n.Operator != "in" {
		g.node(n.Right)
		list = nil
	}
	if list != nil {
		for _, item := range list.Nodes {
			g.node(item)
		}
	}
	for _, side := range [...]ast.Node{n.Left, n.Right} {
		if id, ok := side.(*ast.IdentifierNode); ok && id.Value == exprPrefix+"errors" {
			g.errorName(n)
		}
	}
}

// errorName refuses to look for an error type that no failure can have: the condition would never hold, and nobody would know.
func (g *gate) errorName(n *ast.BinaryNode) {
	for _, side := range [...]ast.Node{n.Left, n.Right} {
		name, ok := side.(*ast.StringNode)
		if !ok {
			continue
		}
		switch t, err := recourse.ParseErrorType(name.Value); {
		case err != nil:
			g.refuse(name, fmt.Sprintf("unknown error type %s: %s", quote(name.Value), nearest.Hint(name.Value, recourse.ErrorTypeNames())))
		case t == recourse.AllErrors:
			g.refuse(name, "no failure has the type AllErrors: it stands for any")
		}
	}
}

func (g *gate) pattern(n *ast.StringNode) {
	re, err := syntax.Parse(n.Value, syntax.Perl)
	if err != nil {
		g.refuse(n, err.Error())
	} else if patternSize(re) > maxRegexp {
		g.refuse(n, "the pattern is too large")
	}
}

// patternSize is the size of a pattern with its repetitions written out, since that is what it is compiled to.
func patternSize(re *syntax.Regexp) int {
	size := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		size += patternSize(sub)
	}
	if re.Op == syntax.OpRepeat {
		size *= max(re.Min, re.Max, 1)
	}
	return min(size, maxRegexp+1)
}

// membership gives contains its Harness meaning for a list: <+step.errors> contains "Timeout". Error types compare
// case-insensitively, as everywhere.
type membership struct{}

func (membership) Visit(node *ast.Node) {
	n, ok := (*node).(*ast.BinaryNode)
	if !ok {
		return
	}
	left, right := n.Left, n.Right
	if n.Operator == "in" {
		left, right = right, left
	}
	if list, ok := left.(*ast.IdentifierNode); !ok || list.Value != exprPrefix+"errors" || n.Operator != "contains" && n.Operator != "in" {
		return
	}
	if name, ok := right.(*ast.StringNode); ok {
		if t, err := recourse.ParseErrorType(name.Value); err == nil {
			name.Value = t.String()
		}
	}
	if n.Operator == "contains" {
		ast.Patch(node, &ast.BinaryNode{Operator: "in", Left: right, Right: left})
	}
}

// Holds implements [decide.Condition]. A condition that names the exit code of a failure that has none is false, wherever in
// the expression it stands: what a condition says does not depend on the order of its parts.
func (c *condition) Holds(f *decide.FailureView) (bool, string) {
	env := conditionEnv{Message: f.Message, Attempt: f.Attempt, Target: f.Target}
	for t := range f.Errors.All {
		env.Errors = append(env.Errors, t.String())
	}
	if f.ExitCode != nil {
		env.ExitCode = *f.ExitCode
	}
	for _, name := range c.uses {
		if name == "exitCode" && f.ExitCode == nil {
			return false, fmt.Sprintf("condition %s cannot be evaluated: exitCode: the failure has none", quoteCondition(c.text))
		}
	}
	machine := vm.VM{MemoryBudget: conditionMemory}
	result, err := machine.Run(c.program, env)
	if err != nil {
		message, _, _ := strings.Cut(err.Error(), "\n")
		return false, fmt.Sprintf("condition %s cannot be evaluated: %s", quoteCondition(c.text), message)
	}
	holds, _ := result.(bool)
	verdict := "does not hold"
	if holds {
		verdict = "holds"
	}
	return holds, fmt.Sprintf("condition %s %s: %s", quoteCondition(c.text), verdict, env.values(c.uses))
}

// quoteCondition returns the condition as a reason shows it: on one line, cut where it is long.
func quoteCondition(text string) string {
	const most = 200
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return "(" + text + ")"
}

// values lists what the condition looked at.
func (e *conditionEnv) values(names []string) string {
	if len(names) == 0 {
		return "it looks at nothing"
	}
	parts := make([]string, 0, len(names))
	for _, name := range names {
		switch name {
		case "exitCode":
			parts = append(parts, "exitCode is "+strconv.Itoa(e.ExitCode))
		case "message":
			parts = append(parts, "message is "+quote(e.Message))
		case "attempt":
			parts = append(parts, "attempt is "+strconv.Itoa(e.Attempt))
		case "errors":
			parts = append(parts, "errors are "+strings.Join(e.Errors, ","))
		case "target":
			parts = append(parts, "target is "+quote(e.Target))
		}
	}
	return strings.Join(parts, ", ")
}
