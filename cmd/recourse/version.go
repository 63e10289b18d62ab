package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse/internal/cli"
)

// version is what the build knows of itself.
type version struct {
	Version  string `json:"version"` // "(devel)" where it was not built from a version of the module
	Revision string `json:"revision,omitzero"`
	Time     string `json:"time,omitzero"` // of the revision
	Modified bool   `json:"modified"`      // beside the revision there were changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func versionCommand(format *cli.Format) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this tool",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := cli.NewPrinter(cmd, format)
			v := ofThisBuild()
			if p.Format == cli.JSON {
				return p.JSON(v)
			}
			rows := p.Rows()
			rows.Add("recourse", v.Version)
			if v.Revision != "" {
				changed := ""
				if v.Modified {
					changed = ", modified"
				}
				rows.Add("revision", v.Revision+" of "+v.Time+changed)
			}
			rows.Add("built with", v.Go+" for "+v.Platform)
			return rows.Flush()
		},
	}
}

func ofThisBuild() version {
	v := version{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
