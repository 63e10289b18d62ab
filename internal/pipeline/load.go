package pipeline

import (
	"fmt"
	"strings"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/decide"
)

// Options are the settings of Load. The zero value loads by the published reference.
type Options struct {
	// Semantics chooses between the published reference and the engine where they disagree; the plan carries it on. The engine
	// refuses some pipelines that the reference lets pass with a first-one-wins.
	Semantics recourse.Semantics
	// Templates are put in the place of what refers to them. Nil leaves the references as they are, with a warning; otherwise one
	// that cannot be resolved is an error.
	Templates *Templates
	// Inputs fill what is <+input>. Nil fills nothing.
	Inputs *Inputs
	// Shared is where plans of several loads have what they have in common. Nil shares nothing.
	Shared *Shared
}

// resolves reports whether there is something to resolve with. Defaults of inputs are used then, too.
func (o Options) resolves() bool { return o.Templates != nil || o.Inputs != nil }

// Load reads a Harness v0 pipeline or template. The plan is nil only where the bytes are not YAML at all; otherwise it is what
// could be read, even where diagnostics are errors: a strategy that cannot be decided by is left out, its node is not. A template
// loads as if it stood in a pipeline of its own, its stage (and a step or step group below that) named by its identifier; a
// fragment of a pipeline is checked too, in a stage named "fragment", and is an error.
func Load(file string, yaml []byte, opt Options) (*decide.Plan, Diagnostics) {
	plan, _, found := LoadBytes(file, yaml, opt)
	return plan, found
}

// LoadBytes is [Load] that also returns about how many bytes of memory the plan takes, without what it shares with plans that were there
// before.
func LoadBytes(file string, yaml []byte, opt Options) (*decide.Plan, int, Diagnostics) {
	l, ok := walk(file, yaml, opt)
	if !ok {
		return nil, 0, l.sorted()
	}
	plan := l.plan()
	return plan, l.bytes, l.sorted()
}

// walk reads the whole document. It is false where there is none.
func walk(file string, yaml []byte, opt Options) (*loader, bool) {
	l := &loader{findings: findings{file: file}, opt: opt, seen: make(map[recourse.Node]*element), read: make(map[*value]bool)}
	tree := parse(yaml, &l.findings)
	if tree == nil {
		return l, false
	}
	if opt.resolves() {
		tree = newResolver(&l.findings, opt).resolve(tree)
	}
	root := &cursor{value: tree}
	l.root(root)
	if l.hasMisplaced(tree) {
		l.misplaced(root)
	}
	l.reportTemplates()
	l.lint()
	return l, true
}

// loader is one load.
type loader struct {
	findings
	opt      Options
	pipeline string
	elements []*element
	seen     map[recourse.Node]*element
	read     map[*value]bool // failureStrategies that were read, and whatever is not ours to read
	errors   int             // so far
	bytes    int             // of the plan, so far
	full     bool            // MaxNodes was reported

	templates     []string // that are not resolved and may hold strategies
	firstTemplate *cursor
}

// element is a stage, step group or step with what lint wants to know about it.
type element struct {
	node       recourse.Node
	level      recourse.Level
	at         *cursor
	kind       string        // type: Deployment, ShellScript
	timeout    time.Duration // 0 where it has none
	strategies []*strategy
	parent     *element
	children   []*element

	unresolved  bool                 // it may have strategies that cannot be seen
	broken      bool                 // it has strategies that were left out for an error
	opaque      bool                 // it may have steps that cannot be seen
	hasRollback bool                 // there is something under its rollbackSteps, or may be
	taken       *recourse.ErrorTypes // see covered
	detached    bool                 // it is not known what encloses it: a fragment, or a template of a step
}

func (l *loader) reportAt(severity Severity, where origin, at *cursor, code, message, fix string) {
	if severity == SeverityError {
		l.errors++
	}
	l.report(severity, code, where, at.path(), message, fix)
}

func (l *loader) say(severity Severity, at *cursor, code, message, fix string) {
	l.reportAt(severity, at.place(), at, code, message, fix)
}

func (l *loader) fail(at *cursor, code, message, fix string) {
	l.say(SeverityError, at, code, message, fix)
}

func (l *loader) warn(at *cursor, code, message, fix string) {
	l.say(SeverityWarning, at, code, message, fix)
}

// plan makes the plan of what was read. It holds on to nothing of the tree.
func (l *loader) plan() *decide.Plan {
	nodes, lists := make([]decide.PlanNode, len(l.elements)), make([][]decide.Strategy, len(l.elements))
	for i, e := range l.elements {
		nodes[i] = decide.PlanNode{Node: e.node, Level: e.level}
		if len(e.strategies) == 0 {
			continue
		}
		lists[i] = make([]decide.Strategy, len(e.strategies))
		for j, s := range e.strategies {
			lists[i][j] = s.Strategy
		}
	}
	l.bytes += planBytes + nodeBytes*len(nodes) + onePiece(nodes) + l.opt.Shared.share(lists)
	for i := range nodes {
		nodes[i].Strategies = lists[i]
	}
	return decide.NewPlan(strings.Clone(l.pipeline), l.opt.Semantics, nodes)
}

// fragmentKeys are the keys by which a piece of a pipeline is known, outermost first.
var fragmentKeys = []string{"stages", "stage", "execution", "stepGroup", "step", "parallel", "steps", "rollbackSteps", "failureStrategies"}

const fragmentName = "fragment"

// root finds out what the document is.
func (l *loader) root(root *cursor) {
	switch version := root.get("version").scalarText(); {
	case root.is(sequence):
		l.fragment(root)
	case !root.is(mapping):
		if !root.is(placeholder) {
			l.fail(root, "no-pipeline", "there is no pipeline here", "")
		}
	case version == "1" && root.get("pipeline").get("identifier") == nil:
		l.fail(root, "v1-yaml", "this is v1 pipeline YAML; v0 is supported", "export the pipeline as v0, which begins with \"pipeline:\" and has an identifier")
		l.read[root.value] = true
	case root.get("pipeline") != nil:
		l.root0(root.get("pipeline"))
	case root.get("template") != nil:
		l.template(root.get("template"))
	default:
		for _, key := range fragmentKeys {
			if root.get(key) != nil {
				l.fragment(root)
				return
			}
		}
		l.warn(root, "no-pipeline", "there is no pipeline here, and nothing about failures", "")
	}
}

// root0 reads what stands under pipeline.
func (l *loader) root0(at *cursor) {
	b := bodyOf(at)
	id, name := at.get("identifier"), at.get("name")
	switch {
	case id.scalarText() != "":
		l.pipeline = id.text
		if err := recourse.ValidateID(id.text); err != nil {
			l.fail(id, "bad-identifier", "the pipeline's identifier: "+err.Error(), "")
		}
	case name.scalarText() != "":
		l.pipeline = identifierFrom(name.text)
		l.warn(orElse(id, at), "missing-identifier", "the pipeline has no identifier; "+quote(l.pipeline)+" is used, from its name", "add identifier: "+l.pipeline)
	case !id.is(placeholder):
		l.fail(orElse(id, at), "missing-identifier", "the pipeline has no identifier", "add one")
	}
	if b.template != nil {
		l.noteTemplate(b.template)
	}
	l.stages(b.get("stages"))
}

// template reads a template file.
func (l *loader) template(at *cursor) {
	id, spec := at.get("identifier"), at.get("spec")
	kind := at.get("type").scalarText()
	name := either(id.scalarText(), identifierFrom(at.get("name").scalarText()))
	switch kind {
	case "Stage", "Step", "StepGroup", "Pipeline":
	default:
		l.warn(at, "no-pipeline", "a template of the type "+quote(kind)+" says nothing about failures", "")
		return
	}
	if name == "" {
		l.fail(orElse(id, at), "missing-identifier", "the template has no identifier", "add one")
		name = fragmentName
	}
	l.pipeline = name
	if !spec.is(mapping) {
		return
	}
	switch kind {
	case "Pipeline":
		l.stages(bodyOf(spec).get("stages"))
	case "Stage":
		l.stage(spec, name)
	case "StepGroup":
		l.group(spec, l.outside(at, name), recourse.Steps, name)
	case "Step":
		l.step(spec, l.outside(at, name), recourse.Steps, name)
	}
}

// outside is a stage for what stands in none.
func (l *loader) outside(at *cursor, name string) *element {
	e := l.element(at, nil, recourse.LevelStage, recourse.Steps, name)
	if e != nil {
		e.detached, e.opaque, e.hasRollback = true, true, true
	}
	return e
}

// fragment reads a piece of a pipeline, as documentation shows them.
func (l *loader) fragment(root *cursor) {
	l.fail(root, "fragment", "this is a part of a pipeline, not a whole one; what it says about failures was checked", "put it where it belongs, below \"pipeline:\"")
	if root.get("stages") != nil {
		l.stages(root.get("stages"))
		return
	}
	if root.get("stage") != nil {
		l.stageItem(root)
		return
	}
	if root.is(sequence) && len(root.items) > 0 && (root.item(0).get("stage") != nil || root.item(0).get("parallel").is(sequence) && isStages(root.item(0).get("parallel"))) {
		l.stages(root)
		return
	}
	e := l.outside(root, fragmentName)
	switch {
	case e == nil:
	case root.is(sequence) && len(root.items) > 0 && root.item(0).get("onFailure") != nil:
		l.strategies(e, root)
	case root.is(sequence):
		l.steps(root, e, recourse.Steps)
	default:
		l.ownStrategies(e, body{layers: []*cursor{root}})
		l.stepItem(root, e, recourse.Steps)
		l.containers(root, e)
	}
}

func isStages(list *cursor) bool {
	for i := range list.items {
		if list.item(i).get("stage") != nil {
			return true
		}
	}
	return false
}

// body is what a node says: its own mapping, and over it the inputs of its template.
type body struct {
	own      *cursor
	template *cursor // nil where there is none
	layers   []*cursor
}

func bodyOf(at *cursor) body {
	b := body{own: at, template: at.get("template")}
	if !b.template.is(mapping) || b.template.get("templateRef") == nil {
		b.template = nil
	} else if inputs := b.template.get("templateInputs"); inputs.is(mapping) {
		b.layers = append(b.layers, inputs)
	}
	b.layers = append(b.layers, at)
	return b
}

// get returns the value of a key from the uppermost layer that has it.
func (b body) get(key string) *cursor {
	for _, layer := range b.layers {
		if c := layer.get(key); c != nil {
			return c
		}
	}
	return nil
}

// stages reads a list of stages. Parallel ones are listed like the others: what runs beside what does not matter here.
func (l *loader) stages(list *cursor) {
	if !list.is(sequence) {
		return
	}
	for i := range list.items {
		l.stageItem(list.item(i))
	}
}

func (l *loader) stageItem(item *cursor) {
	if stage := item.get("stage"); stage.is(mapping) {
		l.stage(stage, "")
	}
	l.stages(item.get("parallel"))
	l.stages(item.get("insert").get("stages"))
}

// stage reads a stage; name stands in where it has no identifier of its own.
func (l *loader) stage(at *cursor, name string) {
	b := bodyOf(at)
	e := l.named(at, nil, recourse.LevelStage, recourse.Steps, name)
	if e == nil {
		return
	}
	l.describe(e, b)
	if e.kind == "Pipeline" {
		// A stage that runs another pipeline: the stages in its inputs are not this pipeline's.
		if spec := b.get("spec"); spec != nil {
			l.read[spec.value] = true
		}
		return
	}
	l.containers(b.get("spec"), e)
}

// containers finds the steps of a stage: in its execution, and wherever else a stage has steps (provisioners of environments
// and infrastructures, which have rollbackSteps of their own).
func (l *loader) containers(at *cursor, e *element) {
	if at.is(sequence) {
		for i := range at.items {
			l.containers(at.item(i), e)
		}
		return
	}
	if !at.is(mapping) {
		return
	}
	// A list of steps anywhere but in an execution is taken for one only where its entries say so.
	isExecution := at.key == "execution"
	for i := range at.entries {
		key := at.entries[i].key
		steps, rollback := key == "steps", key == "rollbackSteps"
		if value := at.entries[i].value; !steps && !rollback && value.kind != mapping && value.kind != sequence {
			continue
		}
		child := at.entry(i)
		switch {
		case (steps || rollback) && (isExecution || isSteps(child)):
			l.section(child, e, recourse.Steps, rollback)
		case child.key != "failureStrategies" && child.key != "template":
			l.containers(child, e)
		}
	}
}

// isSteps reports whether a list holds steps, going by its entries.
func isSteps(list *cursor) bool {
	if !list.is(sequence) {
		return list.unresolved()
	}
	for i := range list.items {
		for _, key := range [...]string{"step", "stepGroup", "parallel", "insert"} {
			if list.item(i).get(key) != nil {
				return true
			}
		}
	}
	return false
}

// section reads the steps or rollbackSteps of a stage or group that itself stands in a section. What is below a rollbackSteps
// stays in that section.
func (l *loader) section(list *cursor, e *element, in recourse.Section, rollback bool) {
	if rollback {
		in = recourse.RollbackSteps
		e.hasRollback = e.hasRollback || list.is(sequence) && len(list.items) > 0 || list.unresolved()
	}
	l.steps(list, e, in)
}

func (l *loader) steps(list *cursor, parent *element, in recourse.Section) {
	if list.unresolved() {
		parent.opaque = true
	}
	if !list.is(sequence) {
		return
	}
	for i := range list.items {
		l.stepItem(list.item(i), parent, in)
	}
}

func (l *loader) stepItem(item *cursor, parent *element, in recourse.Section) {
	if step := item.get("step"); step.is(mapping) {
		l.step(step, parent, in, "")
	}
	if group := item.get("stepGroup"); group.is(mapping) {
		l.group(group, parent, in, "")
	}
	l.steps(item.get("parallel"), parent, in)
	if insert := item.get("insert"); insert != nil {
		parent.opaque = parent.opaque || !insert.get("steps").is(sequence)
		l.steps(insert.get("steps"), parent, in)
	}
}

func (l *loader) step(at *cursor, parent *element, in recourse.Section, name string) {
	if e := l.named(at, parent, recourse.LevelStep, in, name); e != nil {
		l.describe(e, bodyOf(at))
	}
}

func (l *loader) group(at *cursor, parent *element, in recourse.Section, name string) {
	e := l.named(at, parent, recourse.LevelStepGroup, in, name)
	if e == nil {
		return
	}
	b := bodyOf(at)
	l.describe(e, b)
	if steps := b.get("steps"); steps != nil {
		l.section(steps, e, in, false)
	}
	if rollback := b.get("rollbackSteps"); rollback != nil {
		l.section(rollback, e, in, true)
	}
}

// named lists a node by its identifier, or by name where that is given, or else by what its name would make. A node that has
// neither cannot be named in a failure, so nothing about it or below it is read; nil then.
func (l *loader) named(at *cursor, parent *element, level recourse.Level, in recourse.Section, name string) *element {
	id, title := at.get("identifier"), at.get("name")
	switch {
	case name != "":
	case id.scalarText() != "" && !id.unresolved():
		name = strings.TrimSpace(id.text)
	case title.scalarText() != "" && !title.unresolved():
		name = identifierFrom(title.text)
		l.warn(orElse(id, at), "missing-identifier", fmt.Sprintf("this %s has no identifier; %s is used, from its name", level, quote(name)), "add identifier: "+name)
	default:
		l.skip(at, level, "missing-identifier", fmt.Sprintf("this %s has no identifier: no failure can name it", level))
		// What is wrong with its strategies is worth saying all the same.
		l.ownStrategies(&element{node: recourse.Node{Section: in}, level: level, at: at, parent: parent, detached: true}, bodyOf(at))
		return nil
	}
	if strings.ContainsAny(name, "/[") {
		l.skip(orElse(id, at), level, "bad-identifier", fmt.Sprintf("identifier %s: a slash or bracket cannot be in one", quote(name)))
		l.read[at.value] = true
		return nil
	}
	e := l.element(at, parent, level, in, name)
	if e == nil {
		l.read[at.value] = true
	}
	return e
}

// skip reports a node that is left out: an error where strategies are left out with it.
func (l *loader) skip(at *cursor, level recourse.Level, code, message string) {
	if !at.is(mapping) {
		at = at.up
	}
	l.read[at.value] = true
	if mentionsStrategies(at.value) {
		l.fail(at, code, message+"; its failure strategies are lost", "give it an identifier of letters, digits and _")
	} else {
		l.warn(at, code, message, "give it an identifier of letters, digits and _")
	}
}

// mentionsStrategies reports whether there is a failure strategy in or below a value.
func mentionsStrategies(v *value) bool {
	for _, e := range v.entries {
		if e.key == "failureStrategies" && !(e.value.kind == null || e.value.kind == sequence && len(e.value.items) == 0) || mentionsStrategies(e.value) {
			return true
		}
	}
	for _, item := range v.items {
		if mentionsStrategies(item) {
			return true
		}
	}
	return false
}

// element adds a node to the list, nil where it is out of bounds.
func (l *loader) element(at *cursor, parent *element, level recourse.Level, in recourse.Section, name string) *element {
	e := &element{node: recourse.Node{Path: name, Section: in}, level: level, at: at, parent: parent}
	if parent != nil {
		e.node.Path = parent.node.Path + "/" + name
		e.detached = parent.detached
	}
	if err := e.node.Validate(); err != nil {
		l.fail(at, "bad-identifier", err.Error(), "")
		return nil
	}
	if len(l.elements) >= MaxNodes {
		if !l.full {
			l.full = true
			l.fail(at, "too-many-nodes", fmt.Sprintf("a pipeline has at most %d stages, step groups and steps; what follows is left out", MaxNodes), "")
		}
		return nil
	}
	if first, twice := l.seen[e.node]; twice {
		line, _ := first.at.position()
		l.warn(at, "duplicate-node", fmt.Sprintf("%s is there twice, first in line %d; failures are decided by the first", quote(e.node.String()), line), "give it an identifier of its own")
	} else {
		l.seen[e.node] = e
	}
	if parent != nil {
		parent.children = append(parent.children, e)
	}
	l.elements = append(l.elements, e)
	return e
}

// describe reads what all nodes have.
func (l *loader) describe(e *element, b body) {
	e.kind = b.get("type").scalarText()
	if timeout := b.get("timeout"); timeout.is(scalar) {
		e.timeout, _ = recourse.ParseDuration(timeout.text) // one that does not parse is not ours to judge
	}
	l.ownStrategies(e, b)
	if b.template != nil {
		if b.get("failureStrategies") == nil {
			e.unresolved = true
		}
		e.opaque = e.opaque || e.level != recourse.LevelStep
		e.hasRollback = e.hasRollback || e.level != recourse.LevelStep
		if e.unresolved || e.level != recourse.LevelStep {
			l.noteTemplate(b.template)
		}
	}
}

func (l *loader) ownStrategies(e *element, b body) {
	list := b.get("failureStrategies")
	if list == nil {
		return
	}
	for _, layer := range b.layers {
		if c := layer.get("failureStrategies"); c != nil {
			l.read[c.value] = true
		}
	}
	l.strategies(e, list)
}

// noteTemplate remembers a template that may hold strategies.
func (l *loader) noteTemplate(at *cursor) {
	if l.firstTemplate == nil {
		l.firstTemplate = at
	}
	if ref := at.get("templateRef").scalarText(); len(l.templates) < 1000 {
		l.templates = append(l.templates, ref)
	}
}

// reportTemplates says once which strategies cannot be seen: one warning for each step would drown the others.
func (l *loader) reportTemplates() {
	if l.firstTemplate == nil || l.opt.Templates != nil { // which template is not there was said when it was looked for
		return
	}
	const most = 5
	var names []string
	more := 0
	known := make(map[string]bool)
	for _, ref := range l.templates {
		switch {
		case known[ref]:
		case len(known) < most:
			names = append(names, quote(ref))
			known[ref] = true
		default:
			known[ref] = true
			more++
		}
	}
	list := strings.Join(names, ", ")
	if more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	l.warn(l.firstTemplate, "template-unresolved", "templates are not resolved: failure strategies inside of "+list+" are not known, and do not count", "give the directory of the templates with --templates")
}

// misplaced reports strategies that stand where nothing looks for them.
func (l *loader) misplaced(at *cursor) {
	if l.read[at.value] {
		return
	}
	for i := range at.items {
		l.misplaced(at.item(i))
	}
	for i := range at.entries {
		child := at.entry(i)
		if child.key != "failureStrategies" || l.read[child.value] {
			l.misplaced(child)
			continue
		}
		if child.kind == sequence && len(child.items) > 0 {
			l.reportAt(SeverityWarning, child.keyAt, child, "misplaced-strategies", "failure strategies have no effect here: they stand on stages, step groups and steps", "move them to the stage, step group or step they are for")
		}
	}
}

// hasMisplaced reports whether misplaced would find something in a value. Nearly always it would not, and then the way to each value
// need not be known.
func (l *loader) hasMisplaced(v *value) bool {
	if l.read[v] {
		return false
	}
	for _, item := range v.items {
		if l.hasMisplaced(item) {
			return true
		}
	}
	for i := range v.entries {
		child := v.entries[i].value
		if v.entries[i].key != "failureStrategies" || l.read[child] {
			if (child.kind == mapping || child.kind == sequence) && l.hasMisplaced(child) {
				return true
			}
		} else if child.kind == sequence && len(child.items) > 0 {
			return true
		}
	}
	return false
}

// identifierFrom makes an identifier of a name: what is not a letter, digit or _ becomes _.
func identifierFrom(name string) string {
	name = strings.TrimSpace(name)
	if len(name) > recourse.MaxIDLength {
		name = strings.ToValidUTF8(name[:recourse.MaxIDLength], "")
	}
	out := []byte(name)
	for i, c := range out {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '$') {
			out[i] = '_'
		}
	}
	return string(out)
}
