package offline

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// What follows is as much of SARIF 2.1.0 as findings need, by its names.

type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool        sarifTool         `json:"tool"`
	Invocations []sarifInvocation `json:"invocations"`
	ColumnKind  string            `json:"columnKind"`
	Results     []sarifResult     `json:"results"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name  string      `json:"name"`
	Rules []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID                   string             `json:"id"`
	ShortDescription     sarifText          `json:"shortDescription"`
	FullDescription      sarifText          `json:"fullDescription"`
	Help                 sarifText          `json:"help"`
	DefaultConfiguration sarifConfiguration `json:"defaultConfiguration"`
}

type sarifConfiguration struct {
	Level string `json:"level"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifInvocation struct {
	// ExecutionSuccessful is false where a file could not be read; what was found in the others is there all the same.
	ExecutionSuccessful        bool                `json:"executionSuccessful"`
	ToolExecutionNotifications []sarifNotification `json:"toolExecutionNotifications,omitzero"`
}

type sarifNotification struct {
	Level   string    `json:"level"`
	Message sarifText `json:"message"`
}

type sarifResult struct {
	RuleID    string          `json:"ruleId"`
	RuleIndex int             `json:"ruleIndex"`
	Level     string          `json:"level"`
	Message   sarifText       `json:"message"`
	Locations []sarifLocation `json:"locations"`
}

type sarifLocation struct {
	PhysicalLocation sarifPhysical  `json:"physicalLocation"`
	LogicalLocations []sarifLogical `json:"logicalLocations,omitzero"`
}

type sarifPhysical struct {
	ArtifactLocation sarifArtifact `json:"artifactLocation"`
	Region           sarifRegion   `json:"region"`
}

type sarifArtifact struct {
	URI       string `json:"uri"`
	URIBaseID string `json:"uriBaseId,omitzero"` // only beside a relative URI
}

// sarifRegion is where a finding begins, 1-based.
type sarifRegion struct {
	StartLine   int `json:"startLine"`
	StartColumn int `json:"startColumn"`
}

type sarifLogical struct {
	FullyQualifiedName string `json:"fullyQualifiedName"`
}

// sarif makes a log of findings. Its rules are all that are not disabled, whether they found something or not.
func sarif(findings pipeline.Diagnostics, disabled []string, unreadable error) *sarifLog {
	run := sarifRun{
		Tool:        sarifTool{Driver: sarifDriver{Name: "recourse", Rules: []sarifRule{}}},
		Invocations: []sarifInvocation{{ExecutionSuccessful: unreadable == nil}},
		ColumnKind:  "unicodeCodePoints",
		Results:     []sarifResult{},
	}
	if unreadable != nil {
		run.Invocations[0].ToolExecutionNotifications = []sarifNotification{{Level: "error", Message: sarifText{unreadable.Error()}}}
	}
	index := make(map[string]int)
	for _, rule := range withoutRules(pipeline.Rules(), disabled) {
		index[rule.Code] = len(run.Tool.Driver.Rules)
		help := rule.Summary
		if rule.Help != "" {
			help += " " + rule.Help
		}
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{
			ID: rule.Code, ShortDescription: sarifText{rule.Summary}, FullDescription: sarifText{help}, Help: sarifText{help},
			DefaultConfiguration: sarifConfiguration{rule.Severity.String()}, // the names are those of SARIF's levels
		})
	}
	for _, d := range findings {
		text := d.Message
		if d.Fix != "" {
			text += "; " + d.Fix
		}
		location := sarifLocation{PhysicalLocation: sarifPhysical{
			ArtifactLocation: artifact(d.File),
			Region:           sarifRegion{d.Line, d.Column},
		}}
		if d.Path != "" {
			location.LogicalLocations = []sarifLogical{{d.Path}}
		}
		run.Results = append(run.Results, sarifResult{
			RuleID: d.Code, RuleIndex: index[d.Code], Level: d.Severity.String(), Message: sarifText{text}, Locations: []sarifLocation{location},
		})
	}
	return &sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}
}

// withoutRules returns the rules whose codes are not among those.
func withoutRules(rules []pipeline.Rule, codes []string) []pipeline.Rule {
	return slices.DeleteFunc(rules, func(r pipeline.Rule) bool { return slices.Contains(codes, r.Code) })
}

// artifact names a file relative to the working directory, which tools for code review take for the root of the repository, and one
// that is not below it by its whole path: a relative one must not go upwards.
func artifact(file string) sarifArtifact {
	if file == cli.Stdin {
		file = "stdin"
	}
	absolute, err := filepath.Abs(file)
	dir, err2 := os.Getwd()
	if err == nil && err2 == nil {
		relative, err := filepath.Rel(dir, absolute)
		if err != nil || !filepath.IsLocal(relative) {
			return sarifArtifact{URI: (&url.URL{Scheme: "file", Path: "/" + strings.TrimPrefix(filepath.ToSlash(absolute), "/")}).String()}
		}
		file = relative
	}
	return sarifArtifact{(&url.URL{Path: filepath.ToSlash(filepath.Clean(file))}).String(), "%SRCROOT%"}
}
