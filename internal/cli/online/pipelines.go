package online

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/pipeline"
)

// Registered is one registered pipeline.
type Registered struct {
	Key      string    `json:"key"`
	Account  string    `json:"account"`
	Org      string    `json:"org"`
	Project  string    `json:"project"`
	Pipeline string    `json:"pipeline"`
	Revision uint64    `json:"revision"`
	Created  time.Time `json:"created"` // of the revision
	Size     int       `json:"size"`    // bytes
	Stages   int       `json:"stages"`
	Digest   string    `json:"digest"`
}

// Pipelines returns the command that lists the registered pipelines.
func Pipelines(g *Global) *cobra.Command {
	var filter ids
	cmd := &cobra.Command{
		Use:   "pipelines",
		Short: "List the registered pipelines",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := g.connect(cmd)
			if err != nil {
				return err
			}
			defer s.close()
			list, err := client.ListPipelines(cmd.Context(), s.js, filter.Ref)
			if err != nil {
				return err
			}
			bucket, err := s.js.KeyValue(cmd.Context(), recourse.BucketPipelines)
			if err != nil {
				return fmt.Errorf("bucket %s: %w", recourse.BucketPipelines, err)
			}
			registered := make([]Registered, 0, len(list))
			for _, info := range list {
				// By its key, since an id may be shortened in it, and the newest: by revision it could be that of any account, which a
				// viewer may not read.
				entry, err := bucket.Get(cmd.Context(), info.Key)
				if errors.Is(err, jetstream.ErrKeyNotFound) {
					continue // removed meanwhile
				}
				if err != nil {
					return fmt.Errorf("pipeline %s: %w", info.Key, err)
				}
				info.Revision, info.Created = entry.Revision(), entry.Created().UTC()
				registered = append(registered, describe(info, entry.Value()))
			}
			return printRegistered(s.Printer, registered)
		},
	}
	filter.registerFilter(cmd)
	return cmd
}

func describe(info client.PipelineInfo, content []byte) Registered {
	sum := sha256.Sum256(content)
	r := Registered{
		Key: info.Key, Account: info.Ref.Account, Org: info.Ref.Org, Project: info.Ref.Project, Pipeline: info.Ref.Pipeline,
		Revision: info.Revision, Created: info.Created, Size: len(content), Digest: hex.EncodeToString(sum[:8]),
	}
	plan, _ := pipeline.Load(info.Key, content, pipeline.Options{})
	if plan == nil {
		return r
	}
	for _, n := range plan.Nodes() {
		if n.Level == recourse.LevelStage {
			r.Stages++
		}
	}
	return r
}

func printRegistered(p *cli.Printer, registered []Registered) error {
	if p.Format == cli.JSON {
		return p.JSON(registered)
	}
	if len(registered) == 0 {
		p.Note("no pipelines; `recourse apply FILE` registers one")
		return nil
	}
	rows := p.Rows("KEY", "REVISION", "CREATED", "SIZE", "STAGES")
	for _, r := range registered {
		rows.Add(r.Key, fmt.Sprint(r.Revision), cli.Time(r.Created), fmt.Sprint(r.Size), fmt.Sprint(r.Stages))
	}
	return rows.Flush()
}
