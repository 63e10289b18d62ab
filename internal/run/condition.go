package run

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"
)

// The bounds of a condition, as those of a retry's.
const (
	maxConditionLength = 4 << 10 // bytes
	maxConditionNodes  = 256     // operands and operators
	conditionMemory    = 10_000  // the evaluator's own unit: values it may make
)

// condition evaluates what stands beside the status of a `when`: comparisons, contains, startsWith, endsWith, matches, in, and, or, not
// over expressions that are known here. Values are texts; one that reads as a number or a truth value is compared as that. The values
// are those it looked at, for people. The error says why it cannot be evaluated.
func (s *scope) condition(text string) (holds bool, values string, err error) {
	// The text is an outsider's and the compiler somebody else's.
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("it cannot be compiled")
		}
	}()
	if len(text) > maxConditionLength {
		return false, "", fmt.Errorf("it has %d bytes, %d are the most", len(text), maxConditionLength)
	}
	o := operands{scope: s, env: make(map[string]any), seen: make(map[string]string)}
	source, err := o.translate(text)
	if err != nil {
		return false, "", err
	}
	options := []expr.Option{expr.Env(o.env), expr.DisableAllBuiltins(), expr.MaxNodes(maxConditionNodes), expr.Patch(coercion{})}
	for name, function := range coercions {
		options = append(options, expr.Function(name, function))
	}
	program, err := expr.Compile(source, options...)
	if err != nil {
		return false, "", plain(err)
	}
	machine := vm.VM{MemoryBudget: conditionMemory}
	result, err := machine.Run(program, o.env)
	if err != nil {
		return false, "", plain(err)
	}
	holds, err = truth(result)
	return holds, o.values(), err
}

// plain is an error of the expression language without its place, which is one in what was made of the condition.
func plain(err error) error {
	message := err.Error()
	var at *file.Error
	if errors.As(err, &at) {
		message = at.Message
	}
	message, _, _ = strings.Cut(message, "\n")
	return errors.New(message)
}

// operands turns a condition into one of the expression language. Each text in quotes and each expression becomes a name in env: what a
// value says is never read as part of the condition.
type operands struct {
	*scope
	env  map[string]any
	seen map[string]string // values of expressions
}

// spelled are operators of JEXL that are written otherwise in the expression language; the first one that fits counts.
var spelled = [][2]string{
	{"=~", " matches "}, {"!~", " not matches "}, {"=^", " startsWith "}, {"!^", " not startsWith "}, {"=$", " endsWith "}, {"!$", " not endsWith "},
}

func (o *operands) translate(text string) (string, error) {
	var b strings.Builder
next:
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '"' || c == '\'':
			end := i + 1
			for end < len(text) && text[end] != c {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			if end >= len(text) {
				return "", fmt.Errorf("a text is not closed by %c", c)
			}
			if err := o.operand(&b, unescape(text[i+1:end])); err != nil {
				return "", err
			}
			i = end + 1
			continue
		case strings.HasPrefix(text[i:], "<+"):
			end := closing(text[i:])
			if end < 0 {
				return "", errors.New("an expression is not closed by >")
			}
			if err := o.operand(&b, text[i:i+end]); err != nil {
				return "", err
			}
			i += end
			continue
		}
		for _, s := range spelled {
			if strings.HasPrefix(text[i:], s[0]) {
				b.WriteString(s[1])
				i += len(s[0])
				continue next
			}
		}
		b.WriteByte(text[i])
		i++
	}
	return b.String(), nil
}

// operand writes a name for a text with values in place of its expressions.
func (o *operands) operand(b *strings.Builder, text string) error {
	value, unknown := o.expand(text)
	if len(unknown) > 0 {
		return fmt.Errorf("%s is not known here", strings.Join(unknown, ", "))
	}
	if value != text {
		o.seen[text] = value
	}
	name := "operand" + strconv.Itoa(len(o.env))
	o.env[name] = value
	b.WriteString(" " + name + " ")
	return nil
}

// values lists what the expressions came to.
func (o *operands) values() string {
	var parts []string
	for _, text := range slices.Sorted(maps.Keys(o.seen)) {
		parts = append(parts, text+" is "+strconv.Quote(o.seen[text]))
	}
	return strings.Join(parts, ", ")
}

// closing returns where the expression at the beginning of a text ends, those inside it counted; -1 where it does not.
func closing(text string) int {
	depth := 0
	for i := range len(text) {
		switch {
		case strings.HasPrefix(text[i:], "<+"):
			depth++
		case text[i] == '>':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// unescape takes the backslash from a quote or a backslash; before anything else it stays, as in a pattern.
func unescape(text string) string {
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\'`, `'`).Replace(text)
}

// coercion compares values as what they read as, and knows the methods of texts that JEXL has.
type coercion struct{}

// Visit implements [ast.Visitor].
func (coercion) Visit(node *ast.Node) {
	call := func(name string, arguments ...ast.Node) ast.Node {
		return &ast.CallNode{Callee: &ast.IdentifierNode{Value: name}, Arguments: arguments}
	}
	not := func(n ast.Node) ast.Node { return &ast.UnaryNode{Operator: "not", Node: n} }
	switch n := (*node).(type) {
	case *ast.UnaryNode:
		if n.Operator == "not" || n.Operator == "!" {
			n.Node = call("truth", n.Node)
		}
	case *ast.BinaryNode:
		switch n.Operator {
		case "==":
			ast.Patch(node, call("same", n.Left, n.Right))
		case "!=":
			ast.Patch(node, not(call("same", n.Left, n.Right)))
		case "<":
			ast.Patch(node, call("less", n.Left, n.Right))
		case ">":
			ast.Patch(node, call("less", n.Right, n.Left))
		case "<=":
			ast.Patch(node, not(call("less", n.Right, n.Left)))
		case ">=":
			ast.Patch(node, not(call("less", n.Left, n.Right)))
		case "&&", "and", "||", "or":
			n.Left, n.Right = call("truth", n.Left), call("truth", n.Right)
		case "contains", "startsWith", "endsWith", "matches":
			n.Left, n.Right = call("text", n.Left), call("text", n.Right)
		}
	case *ast.CallNode:
		member, ok := n.Callee.(*ast.MemberNode)
		if !ok || len(n.Arguments) != 1 {
			return
		}
		method, _ := member.Property.(*ast.StringNode)
		if method == nil {
			return
		}
		switch method.Value {
		case "contains", "startsWith", "endsWith":
			ast.Patch(node, &ast.BinaryNode{Operator: method.Value, Left: call("text", member.Node), Right: call("text", n.Arguments[0])})
		case "equals":
			ast.Patch(node, call("same", member.Node, n.Arguments[0]))
		}
	}
}

// coercions are the functions that [coercion] calls. Each has as many arguments as it is given there.
var coercions = map[string]func(...any) (any, error){
	"truth": func(of ...any) (any, error) { return truth(of[0]) },
	"text":  func(of ...any) (any, error) { return fmt.Sprint(of[0]), nil },
	"same": func(of ...any) (any, error) {
		a, b, numbers := numbers(of[0], of[1])
		return numbers && a == b || fmt.Sprint(of[0]) == fmt.Sprint(of[1]), nil
	},
	"less": func(of ...any) (any, error) {
		if a, b, numbers := numbers(of[0], of[1]); numbers {
			return a < b, nil
		}
		return fmt.Sprint(of[0]) < fmt.Sprint(of[1]), nil
	},
}

// numbers returns two values as numbers, and whether both read as one.
func numbers(a, b any) (x, y float64, ok bool) {
	x, errX := strconv.ParseFloat(fmt.Sprint(a), 64)
	y, errY := strconv.ParseFloat(fmt.Sprint(b), 64)
	return x, y, errX == nil && errY == nil
}

// truth reads a truth value.
func truth(value any) (bool, error) {
	switch text := fmt.Sprint(value); strings.ToLower(strings.TrimSpace(text)) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	default:
		return false, fmt.Errorf("%q is neither true nor false", text)
	}
}
