package docs

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/publish"
	"go.yaml.in/yaml/v4"
)

// asyncAPI is the AsyncAPI document, its references resolved as they are asked for.
type asyncAPI struct {
	*testing.T
	root object
}

func readAsyncAPI(t *testing.T) asyncAPI {
	t.Helper()
	text, err := os.ReadFile("asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var root object
	if err := yaml.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	return asyncAPI{t, root}
}

// at returns what stands at a path, keys joined by dots are not possible: each key is an argument.
func (d asyncAPI) at(node any, keys ...string) object {
	d.Helper()
	for _, key := range keys {
		m, ok := node.(object)
		if !ok || m[key] == nil {
			d.Fatalf("nothing at %s (%s)", strings.Join(keys, "/"), key)
		}
		node = d.resolve(m[key])
	}
	m, ok := node.(object)
	if !ok {
		d.Fatalf("no object at %s", strings.Join(keys, "/"))
	}
	return m
}

func (d asyncAPI) resolve(node any) any {
	d.Helper()
	m, ok := node.(object)
	if !ok {
		return node
	}
	local, ok := strings.CutPrefix(str(m["$ref"]), "#/")
	if !ok {
		return node
	}
	return d.at(d.root, strings.Split(local, "/")...)
}

func str(v any) string { s, _ := v.(string); return s }

func texts(v any) (list []string) {
	items, _ := v.([]any)
	for _, item := range items {
		list = append(list, str(item))
	}
	return list
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("%s: the document has %s, the code %s", what, slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want)))
	}
}

// inputFamilies are those of the inbox, with the schema of each.
var inputFamilies = map[recourse.Family]string{
	recourse.FamilyFailure: "failure", recourse.FamilyIntervention: "answer", recourse.FamilyControl: "control", recourse.FamilyLifecycle: "lifecycle",
}

// internalFamilies are between a worker and the broker, and none of anybody else's business.
var internalFamilies = []string{string(recourse.FamilyTimer), string(recourse.FamilyDue)}

// TestChannels: the channels are the families, their addresses the subjects.
func TestChannels(t *testing.T) {
	d := readAsyncAPI(t)
	if version := str(d.root["asyncapi"]); version != "3.0.0" {
		t.Errorf("asyncapi %s", version)
	}
	channels, operations := d.at(d.root, "channels"), d.at(d.root, "operations")
	families := constantsOf(t, "../subject.go")["Family"]
	same(t, "channels", slices.Collect(maps.Keys(channels)), slices.DeleteFunc(families, func(f string) bool { return slices.Contains(internalFamilies, f) }))
	same(t, "operations", slices.Collect(maps.Keys(operations)), slices.Collect(maps.Keys(channels)))
	parameter := regexp.MustCompile(`\{(\w+)\}`)
	for name := range channels {
		channel, family := d.at(channels, name), recourse.Family(name)
		address := str(channel["address"])
		if got := parameter.ReplaceAllString(address, "*"); got != recourse.Filter(family) {
			t.Errorf("%s: address %s, want %s", name, got, recourse.Filter(family))
		}
		// With the ids in place of the parameters it is the subject.
		filled := parameter.ReplaceAllStringFunc(address, func(p string) string { return recourse.Token("<" + p[1:len(p)-1] + ">") })
		if want := (recourse.Ref{Account: "<account>", Org: "<org>", Project: "<project>", Pipeline: "<pipeline>", Execution: "<execution>"}).Prefix() + "." + name + "."; !strings.HasPrefix(filled, want) {
			t.Errorf("%s: %s does not begin with %s", name, filled, want)
		}
		inAddress := []string{}
		for _, match := range parameter.FindAllStringSubmatch(address, -1) {
			inAddress = append(inAddress, match[1])
		}
		same(t, name+": parameters", slices.Collect(maps.Keys(d.at(channel, "parameters"))), inAddress)
		stream, action := recourse.StreamJournal, "send"
		if _, ok := inputFamilies[family]; ok {
			stream, action = recourse.StreamInbox, "receive"
		} else if family == recourse.FamilyRejected {
			stream = recourse.StreamRejected
		}
		if str(channel["x-stream"]) != stream {
			t.Errorf("%s: stream %s, want %s", name, channel["x-stream"], stream)
		}
		operation := d.at(operations, name)
		if str(operation["action"]) != action || str(operation["channel"].(object)["$ref"]) != "#/channels/"+name {
			t.Errorf("operation %s: %v", name, operation)
		}
	}
	parameters := d.at(d.root, "components", "parameters")
	record, codec := constantsOf(t, "../record.go"), constantsOf(t, "../codec.go")
	same(t, "verbs", texts(d.at(parameters, "verb")["enum"]), namesOf[recourse.Verb](1))
	same(t, "kinds", texts(d.at(parameters, "kind")["enum"]), record["Kind"])
	same(t, "reasons", texts(d.at(parameters, "reason")["enum"]), codec["Reason"])
	same(t, "reasons in the header", texts(d.at(d.root, "components", "schemas", "reason")["enum"]), codec["Reason"])
}

// TestMessages: the payloads are the schemas, the headers those that are written and read.
func TestMessages(t *testing.T) {
	d := readAsyncAPI(t)
	messages := d.at(d.root, "components", "messages")
	schemaOf := map[string]string{"taskRunFinished": "cdevents-taskrun", "command": "record", "decision": "record"}
	inChannel := map[string]string{}
	for family, name := range inputFamilies {
		schemaOf[name], schemaOf[name+"Event"] = name, "cloudevents-envelope"
		inChannel[name], inChannel[name+"Event"] = string(family), string(family)
		got := texts(d.at(messages, name, "headers", "properties", "ce-type")["enum"])
		same(t, name+": types", got, []string{recourse.EventType(family), "dev.recourse." + string(family)})
		for _, eventType := range got {
			if err := accepts(family, map[string][]string{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/ci"}, "ce-type": {eventType}}, []byte(exampleOf(name))); err != nil {
				t.Errorf("%s: type %s: %v", name, eventType, err)
			}
		}
		delegate := map[string][]string{}
		recourse.SetEventHeader(delegate, recourse.Event{ID: "1", Source: "/", Type: "x", Subject: "s", Time: time.Unix(0, 0)})
		headers := d.at(messages, name, "headers", "properties")
		for header := range delegate {
			if headers[header] == nil {
				t.Errorf("%s has no header %s", name, header)
			}
		}
	}
	schemaOf["rejected"] = ""
	same(t, "messages", slices.Collect(maps.Keys(messages)), slices.Collect(maps.Keys(schemaOf)))
	for name, schema := range schemaOf {
		if payload := d.at(messages, name, "payload"); schema != "" {
			if got := str(d.at(payload, "schema")["$ref"]); got != "./schemas/"+schema+".json" {
				t.Errorf("%s: payload %s, want %s", name, got, schema)
			}
			compile(t, schema)
		}
		channel := name
		if inChannel[name] != "" {
			channel = inChannel[name]
		} else if name == "taskRunFinished" {
			channel = string(recourse.FamilyFailure)
		}
		if got := str(d.at(d.root, "channels", channel)["messages"].(object)[name].(object)["$ref"]); got != "#/components/messages/"+name {
			t.Errorf("channel %s: %s", channel, got)
		}
	}

	// A record's headers: those of the event, those of the constants, and the trace's.
	written := []string{"traceparent", "tracestate", "ce-traceparent", "ce-tracestate", "baggage"}
	for _, header := range constantsOf(t, "../subject.go")["Header"] {
		if header != recourse.HeaderCancelled { // of a timer
			written = append(written, header)
		}
	}
	event := map[string][]string{}
	recourse.SetEventHeader(event, recourse.Event{ID: "1", Source: "/", Type: "x", Subject: "s", Time: time.Unix(0, 0)})
	written = slices.AppendSeq(written, maps.Keys(event))
	types := map[string][]string{}
	for verb := recourse.Verb(1); verb.String() != ""; verb++ {
		types["command"] = append(types["command"], (&recourse.Record{Decision: recourse.Decision{Command: recourse.Command{Verb: verb}}}).Event("").Type)
	}
	for _, kind := range constantsOf(t, "../record.go")["Kind"] {
		types["decision"] = append(types["decision"], (&recourse.Record{Decision: recourse.Decision{Kind: kind}}).Event("").Type)
	}
	for name, want := range types {
		headers := d.at(messages, name, "headers")
		same(t, name+": headers", slices.Collect(maps.Keys(d.at(headers, "properties"))), written)
		same(t, name+": types", texts(d.at(headers, "properties", "ce-type")["enum"]), want)
	}
	same(t, "rejected: headers", slices.Collect(maps.Keys(d.at(messages, "rejected", "headers", "properties"))),
		[]string{publish.HeaderReason, publish.HeaderError, publish.HeaderSubject, publish.HeaderSequence})
}

// exampleOf is a message of a schema that is taken.
func exampleOf(schema string) string {
	for _, in := range inputs {
		if in.schema == schema {
			return in.seeds[0]
		}
	}
	return ""
}

// TestReferences: nothing in the document points to nowhere.
func TestReferences(t *testing.T) {
	d := readAsyncAPI(t)
	found := 0
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case object:
			if target := str(v["$ref"]); strings.HasPrefix(target, "./") {
				if _, err := os.Stat(target); err != nil {
					t.Error(err)
				}
				found++
			} else if target != "" {
				if reflect.DeepEqual(d.resolve(v), any(v)) {
					t.Errorf("%s leads nowhere", target)
				}
				found++
			}
			for _, member := range v {
				walk(member)
			}
		case []any:
			for _, item := range v {
				walk(item)
			}
		}
	}
	walk(d.root)
	if found < 50 {
		t.Errorf("%d references", found)
	}
}
