package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/recourse-dev/recourse"
)

// object is a JSON object.
type object = map[string]any

// The schemas are built from the lists and bounds of the code, so that a name that is added there is missing here no longer than until the
// next test.
func schemas(t testing.TB) map[string]object {
	ids := object{"account": ref("id"), "org": ref("id"), "project": ref("id"), "pipeline": ref("id"), "execution": ref("id")}
	idNames := []string{"account", "org", "project", "pipeline", "execution"}
	input := func(title, description string, required []string, properties ...object) object {
		all := object{"schema": ref("schema"), "at": nullable(ref("time"))}
		for _, p := range append(properties, ids) {
			for name, schema := range p {
				all[name] = schema
			}
		}
		return document(title, description, closed(all, append(slices.Clone(idNames), required...)...))
	}
	postpone := object{"required": []string{"do"}, "properties": object{"do": object{"pattern": anyCase([]string{recourse.Postpone.String()})}}}
	control := input("Control", "What a person does to a pending retry. Subject: ….control.<principal>.", []string{"wait", "do", "why"}, object{
		"id": nullable(ref("optionalId")), "wait": ref("version"), "do": names(namesOf[recourse.ControlVerb](1)), "for": nullable(ref("duration")),
		"who": nullable(text()), "why": someText(),
	})
	control["if"] = postpone
	control["then"] = object{"required": []string{"for"}, "properties": object{"for": object{"type": "string", "not": object{"pattern": zeroDuration}}}}
	control["else"] = object{"properties": object{"for": object{"anyOf": []any{object{"type": "null"}, object{"pattern": zeroDuration}}}}}

	what := object{
		"errors": object{"type": "array", "items": names(without(recourse.ErrorTypeNames(), recourse.AllErrors.String()))}, "message": nullable(text()),
		"exitCode": nullable(ref("int")), "target": nullable(text()), "retryAfter": nullable(ref("duration")),
	}
	node := object{"node": ref("node"), "section": ref("section")}
	return map[string]object{
		"failure": input("Failure", "One attempt of one node failed. Subject: ….failure.<principal>.", []string{"node", "attempt"}, node, what, object{
			"attempt": ref("attempt"),
		}),
		"answer": input("Answer", "A person's answer to an open intervention. Subject: ….intervention.<principal>.", []string{"intervention", "action", "why"}, object{
			"id": nullable(ref("optionalId")), "intervention": ref("version"), "action": names(recourse.ActionNames()), "who": nullable(text()), "why": someText(),
		}),
		"control": control,
		"lifecycle": input("Lifecycle", "An execution ended. Subject: ….lifecycle.<principal>.", []string{"event"}, object{
			"event": names(namesOf[recourse.LifecycleEvent](1)), "why": nullable(text()),
		}),
		"record":               document("Record", "One decision, and where it has a command, the command. Subjects: ….command.<verb>, ….decision.<kind>.", record(t, ids, idNames)),
		"cdevents-taskrun":     cdEvents(ids, what),
		"cloudevents-envelope": cloudEvent(),
	}
}

// record is what workers write. Readers are more tolerant: of all this they ask for version and reason only.
func record(t testing.TB, ids object, idNames []string) object {
	exact := func(names []string) object { return object{"enum": names} }
	constants := constantsOf(t, "../record.go")
	action, level := exact(recourse.ActionNames()), exact(namesOf[recourse.Level](0))
	section, seen := exact([]string{recourse.RollbackSteps.String()}), object{"type": "string"}
	anyErrors := object{"type": "array", "items": exact(recourse.ErrorTypeNames()), "uniqueItems": true}
	actions := object{"type": "array", "items": action, "uniqueItems": true}
	list := func(items object) object { return object{"type": "array", "items": items} }
	number, count, version := ref("uint64"), object{"type": "integer", "minimum": 0, "maximum": math.MaxInt64}, ref("uint64")
	revision := closed(object{"revision": number, "digest": text()}, "revision", "digest")
	what := object{"errors": anyErrors, "message": text(), "exitCode": ref("int"), "target": text(), "retryAfter": ref("duration"), "at": ref("time")}
	wait := closed(object{
		"version": version, "kind": exact(namesOf[recourse.WaitKind](1)), "node": text(), "section": section, "attempt": count, "scope": text(),
		"dueAt": ref("time"), "level": level, "strategy": text(), "allowed": actions, "onTimeout": action, "retry": count, "of": count, "then": action, "answerBy": text(),
	}, "version", "node", "attempt", "dueAt", "level")
	seenInput := closed(object{"key": text(), "version": version, "digest": text()}, "key", "version")
	state := closed(object{
		"pipelineRevision": revision, "failed": object{"type": "boolean"}, "waits": list(wait), "answers": list(seenInput), "ended": list(seenInput),
		"nodes": list(closed(object{
			"node": text(), "section": section, "attempt": count, "base": count, "rebase": object{"type": "boolean"},
			"seen": list(closed(object{"attempt": count, "version": version, "digest": seen}, "attempt", "version")),
		}, "node", "attempt", "seen")),
		"groups": list(closed(object{"path": text(), "section": section, "retries": count, "restarted": object{"type": "boolean"}}, "path", "retries")),
		"covers": list(closed(object{"scope": text(), "action": action, "version": version}, "scope", "version")),
		"interventions": list(closed(object{
			"id": version, "version": version, "at": ref("time"), "who": text(), "action": action, "reason": exact(namesOf[recourse.Reason](1)),
			"do": exact(namesOf[recourse.ControlVerb](1)),
		}, "id", "version")),
	})
	all := object{
		"schema": object{"const": recourse.Schema}, "version": object{"type": "integer", "minimum": 1, "maximum": uint64(math.MaxUint64)}, "previous": number,
		"at": ref("time"), "pipelineRevision": revision, "semantics": exact([]string{recourse.Engine.String()}),
		"input": closed(object{
			"key": text(), "sequence": number, "digest": text(), "principal": text(), "failure": closed(what),
			"answer": closed(object{"intervention": version, "action": action, "who": text(), "why": text(), "at": ref("time")}, "intervention", "who", "why"),
			"control": closed(object{
				"wait": version, "do": exact(namesOf[recourse.ControlVerb](1)), "for": ref("duration"), "who": text(), "why": text(), "at": ref("time"),
			}, "wait", "do", "who", "why"),
			"lifecycle": exact(namesOf[recourse.LifecycleEvent](1)), "why": text(), "due": version,
		}, "key"),
		"node": text(), "section": section, "attempt": count, "action": action, "reason": exact(namesOf[recourse.Reason](1)), "detail": text(),
		"level": level, "strategy": text(), "delay": ref("duration"), "kind": exact(constants["Kind"]),
		"command": closed(object{
			"verb": exact(namesOf[recourse.Verb](1)), "scope": text(), "attempt": count,
			"intervention": closed(object{"id": version, "allowed": actions, "deadline": ref("time"), "onTimeout": action, "answerBy": text()}, "id", "allowed", "deadline"),
		}),
		"effect": closed(object{
			"node": exact(append([]string{""}, constants["Status"]...)), "stage": exact(constants["Outcome"]), "pipelineFailed": object{"type": "boolean"},
			"runs": list(text()),
		}, "node", "pipelineFailed"),
		"wait": wait, "ends": version, "cancelled": list(version), "state": state, "stateBase": number,
		"trail": list(closed(object{
			"level": level, "path": text(), "index": object{"type": "integer", "minimum": -1, "maximum": math.MaxInt64}, "errors": anyErrors, "action": action,
			"applies": object{"type": "boolean"}, "why": text(),
		}, "level", "path", "index", "errors", "applies", "why")),
	}
	for name := range ids {
		all[name] = text()
	}
	return closed(all, append(slices.Clone(idNames), "schema", "version", "previous", "at", "input", "node", "reason", "level")...)
}

// cdEvents is what is accepted of a CDEvents event. What is not read there is open; customData.recourse is ours and closed.
func cdEvents(ids, what object) object {
	custom := object{"node": object{"anyOf": []any{ref("node"), object{"enum": []any{"", nil}}}}, "section": ref("section"), "attempt": nullable(ref("attempt"))}
	for name := range ids {
		custom[name] = nullable(ref("optionalId"))
	}
	for _, name := range []string{"errors", "exitCode", "target", "retryAfter"} {
		custom[name] = what[name]
	}
	open := func(properties object, required ...string) object {
		return object{"type": "object", "properties": properties, "required": append([]string{}, required...)}
	}
	optional := func(o object) object {
		return object{"type": []string{"object", "null"}, "properties": o["properties"]}
	}
	inContent := func(name string, schema object) object {
		return open(object{"subject": open(object{"content": open(object{name: schema}, name)}, "content")}, "subject")
	}
	inCustom := func(name string) object {
		return open(object{"customData": open(object{"recourse": open(object{name: someText()}, name)}, "recourse")}, "customData")
	}
	d := document("CDEvents taskrun.finished", "A task run that failed, as a failure. Subject: ….failure.<principal>.", open(object{
		"context": object{
			"type": "object", "required": []string{"id", "source", "type", "timestamp"},
			"properties": object{
				"id": someText(), "source": object{"type": "string", "pattern": uriReference},
				"type": object{"type": "string", "pattern": `^dev\.cdevents\.taskrun\.finished\.0\.`}, "version": nullable(text()), "specversion": nullable(text()),
				"timestamp": object{"allOf": []any{ref("time"), object{"not": object{"const": "0001-01-01T00:00:00Z"}}}},
			},
			"anyOf": []any{open(object{"version": someText()}, "version"), open(object{"specversion": someText()}, "specversion")},
		},
		"subject": open(object{
			"id": someText(), "type": object{"enum": []any{"", "taskRun", "taskrun", nil}},
			"content": open(object{
				"taskName": nullable(text()), "outcome": object{"enum": []string{"failure", "error"}}, "errors": nullable(text()),
				"pipelineRun": optional(open(object{"id": nullable(text())})),
			}, "outcome"),
		}, "id", "content"),
		"customData": object{
			"if":   object{"type": "object"},
			"then": object{"properties": object{"recourse": object{"type": []string{"object", "null"}, "properties": custom, "additionalProperties": false}}},
		},
	}, "context", "subject"))
	d["allOf"] = []any{
		object{"anyOf": []any{inCustom("node"), inContent("taskName", ref("node"))}},
		object{"anyOf": []any{inCustom("execution"), inContent("pipelineRun", object{"properties": object{"id": nullable(ref("optionalId"))}}), object{"not": inContent("pipelineRun", object{})}}},
	}
	return d
}

// cloudEvent is the envelope in structured mode.
func cloudEvent() object {
	attribute := object{"type": []string{"string", "null"}, "minLength": 1, "pattern": noControls}
	required := object{"type": "string", "minLength": 1, "pattern": noControls}
	return document("CloudEvent", "An input as a CloudEvent 1.0 in structured mode. The data is a message of the subject's family, or a CDEvents taskrun.finished.", object{
		"type": "object", "required": []string{"specversion", "id", "source", "type"},
		"properties": object{
			"specversion": object{"const": "1.0"}, "id": required, "source": object{"type": "string", "pattern": uriReference},
			"type":    object{"type": "string", "pattern": `^(?:dev\.recourse\.(?:failure|intervention|control|lifecycle)(?:\.v1)?|dev\.cdevents\.taskrun\.finished\.0\..*)$`},
			"subject": attribute, "time": nullable(ref("time")), "dataschema": attribute,
			"datacontenttype": object{"type": []string{"string", "null"}, "pattern": `^[^;\x00-\x1f\x7f-\x9f]*[/+][Jj][Ss][Oo][Nn][ ]*(?:;[^\x00-\x1f\x7f-\x9f]*)?$`},
			"data":            true, "data_base64": object{"type": []string{"string", "null"}, "contentEncoding": "base64"},
		},
		// Extensions. The pattern leaves out "data", which may be anything.
		"patternProperties": object{
			`^(?:[a-ce-z0-9][a-z0-9]{3}|d[b-z0-9][a-z0-9]{2}|da[a-su-z0-9][a-z0-9]|dat[b-z0-9]|[a-z0-9]{1,3}|[a-z0-9]{5,})$`: object{"type": []string{"string", "number", "boolean", "null"}},
		},
		"additionalProperties": false,
		"oneOf": []any{
			object{"required": []string{"data"}, "properties": object{"data_base64": object{"type": "null"}}},
			object{"required": []string{"data_base64"}, "not": object{"required": []string{"data"}}, "properties": object{"data_base64": object{"type": "string"}}},
		},
	})
}

const (
	noControls = `^[^\x00-\x1f\x7f-\x9f]*$`
	// Groups of an integer and a unit as pipelines write them, or Go's form.
	plainDuration = `[0-9]+[smhdw](?: ?[0-9]+[smhdw])*`
	goNumber      = `(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)`
	goUnit        = `(?:ns|us|µs|μs|ms|s|m|h)`
	goZero        = `(?:0+(?:\.0*)?|\.0+)`
	duration      = `^(?:` + plainDuration + `|\+?(?:0|(?:` + goNumber + goUnit + `)+)|-(?:0|(?:` + goZero + goUnit + `)+))$`
	zeroDuration  = `^(?:0+[smhdw](?: ?0+[smhdw])*|[+-]?(?:0|(?:` + goZero + goUnit + `)+))$`
	timestamp     = `^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$`
	uriReference  = `^(?:[!#$&-;=?-Z\[\]_a-z~]|%[0-9A-Fa-f]{2})+$`
	segment       = `[^/\[\x00-\x1f\x7f-\x9f]+(?:\[[^/\x00-\x1f\x7f-\x9f]+\])?`
)

// defs are the definitions that the messages share.
func defs() object {
	return object{
		"schema":     object{"type": []string{"integer", "null"}, "minimum": 0, "maximum": recourse.Schema, "default": recourse.Schema, "description": "The version of the format."},
		"id":         object{"type": "string", "minLength": 1, "maxLength": recourse.MaxIDLength, "pattern": noControls, "description": fmt.Sprintf("At most %d bytes of UTF-8.", recourse.MaxIDLength)},
		"optionalId": object{"type": "string", "maxLength": recourse.MaxIDLength, "pattern": noControls},
		"node": object{
			"type": "string", "maxLength": recourse.MaxNodePathLength, "pattern": fmt.Sprintf(`^%s(?:/%s){0,%d}$`, segment, segment, recourse.MaxNodeDepth-1),
			"description": fmt.Sprintf("stage/group…/step; an iteration in brackets behind its identifier. At most %d bytes.", recourse.MaxNodePathLength),
		},
		"section": object{"anyOf": []any{
			object{"enum": []string{recourse.Steps.String(), recourse.RollbackSteps.String()}}, object{"type": "string", "pattern": anyCase([]string{"", "steps", "rollbackSteps", "rollback"})}, object{"type": "null"},
		}},
		"attempt":  object{"type": "integer", "minimum": 1, "maximum": recourse.MaxAttempt},
		"version":  object{"type": "integer", "minimum": 1, "maximum": uint64(math.MaxUint64)},
		"uint64":   object{"type": "integer", "minimum": 0, "maximum": uint64(math.MaxUint64)},
		"int":      object{"type": "integer", "minimum": math.MinInt64, "maximum": math.MaxInt64},
		"duration": object{"type": "string", "pattern": duration, "description": fmt.Sprintf("1m30s, 1d 2h; at most %s.", recourse.Duration(recourse.MaxWait))},
		"time":     object{"type": "string", "format": "date-time", "pattern": timestamp},
	}
}

// document makes a schema of a message: with its version of JSON Schema, an identity, and the definitions it uses.
func document(title, description string, schema object) object {
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"], schema["description"] = title, description
	all, used := defs(), object{}
	var use func(v any)
	use = func(v any) {
		switch v := v.(type) {
		case object:
			if name, ok := strings.CutPrefix(fmt.Sprint(v["$ref"]), "#/$defs/"); ok {
				used[name] = all[name]
			}
			for _, member := range v {
				use(member)
			}
		case []any:
			for _, item := range v {
				use(item)
			}
		}
	}
	use(schema)
	schema["$defs"] = used
	return schema
}

func ref(name string) object { return object{"$ref": "#/$defs/" + name} }
func text() object           { return object{"type": "string"} }
func someText() object       { return object{"type": "string", "minLength": 1} }

// closed is an object without other members.
func closed(properties object, required ...string) object {
	slices.Sort(required)
	return object{"type": "object", "properties": properties, "required": append([]string{}, required...), "additionalProperties": false}
}

// nullable also takes null, which counts as absent.
func nullable(schema object) object {
	if kind, ok := schema["type"].(string); ok && len(schema) == 1 {
		return object{"type": []string{kind, "null"}}
	}
	return object{"anyOf": []any{schema, object{"type": "null"}}}
}

// names takes the names as they are written, and, as the codec does, in other letter cases.
func names(list []string) object {
	return object{"anyOf": []any{object{"enum": list}, object{"type": "string", "pattern": anyCase(list)}}}
}

// sameLower has the characters that a lower-case letter stands for. Nothing beyond the letterlike symbols becomes ASCII.
var sameLower = func() map[rune]string {
	same := map[rune]string{}
	for r := rune(0); r < 0x3000; r++ {
		same[unicode.ToLower(r)] += string(r)
	}
	return same
}()

// anyCase is a pattern for names whose letter case does not matter.
func anyCase(list []string) string {
	var b strings.Builder
	for i, name := range list {
		if i > 0 {
			b.WriteByte('|')
		}
		for _, r := range name {
			if !unicode.IsLetter(r) {
				b.WriteString(regexp.QuoteMeta(string(r)))
				continue
			}
			b.WriteString("[" + sameLower[unicode.ToLower(r)] + "]")
		}
	}
	return "^(?:" + b.String() + ")$"
}

func without(list []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == name })
}

// namesOf returns the names of an enum from a value on.
func namesOf[T interface {
	~uint8
	String() string
}](from T) (names []string) {
	for v := from; v.String() != ""; v++ {
		names = append(names, v.String())
	}
	return names
}

// constantsOf returns the text constants of a source file by the beginning of their names.
func constantsOf(t testing.TB, file string) map[string][]string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for _, decl := range parsed.Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			value := spec.(*ast.ValueSpec)
			for i, name := range value.Names {
				if i >= len(value.Values) {
					continue
				}
				literal, ok := value.Values[i].(*ast.BasicLit)
				if !ok || literal.Kind != token.STRING {
					continue
				}
				s, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				for _, prefix := range []string{"Kind", "Status", "Outcome", "Reason", "Family", "Header", "Stream"} {
					if rest, ok := strings.CutPrefix(name.Name, prefix); ok && rest != "" && unicode.IsUpper(rune(rest[0])) {
						found[prefix] = append(found[prefix], s)
					}
				}
			}
		}
	}
	return found
}
