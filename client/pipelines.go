package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// MaxPipelineSize is the most bytes the YAML of a pipeline may have.
const MaxPipelineSize = 1 << 20

// ErrPipelineNotFound says that the bucket has no pipeline under the ids.
var ErrPipelineNotFound = errors.New("pipeline not found")

// PipelineInfo is one pipeline of the bucket, without its YAML.
type PipelineInfo struct {
	// Key is the key in the bucket; see [recourse.Ref.PipelineKey].
	Key string
	// Ref has the four ids of the pipeline, and no execution. An id that was too long for the key is shortened for good; then
	// the key's part stands here, recognisable by "==".
	Ref recourse.Ref
	// Revision is that of the newest value; an execution pins the revision of its first decision.
	Revision uint64
	// Created is when the revision was stored, by the broker's clock (UTC).
	Created time.Time
}

// PutPipeline stores the YAML of a pipeline, up to [MaxPipelineSize] bytes, and returns its revision. The execution of ref does
// not matter. Executions that have begun keep the revision they pinned. The YAML is stored as it is: whoever puts it checks it.
func PutPipeline(ctx context.Context, js jetstream.JetStream, ref recourse.Ref, yaml []byte) (revision uint64, err error) {
	if len(yaml) == 0 || len(yaml) > MaxPipelineSize {
		return 0, fmt.Errorf("pipeline: want 1 to %d bytes of YAML, got %d", MaxPipelineSize, len(yaml))
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	bucket, key, err := pipelineAt(ctx, js, ref)
	if err != nil {
		return 0, err
	}
	if revision, err = bucket.Put(ctx, key, yaml); err != nil {
		return 0, fmt.Errorf("put pipeline %s: %w", key, noAnswer(js.Conn(), err))
	}
	return revision, nil
}

// GetPipeline returns the newest YAML of a pipeline and its revision. The execution of ref does not matter. The error is
// [ErrPipelineNotFound] where there is none, or it was deleted.
func GetPipeline(ctx context.Context, js jetstream.JetStream, ref recourse.Ref) (yaml []byte, revision uint64, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	bucket, key, err := pipelineAt(ctx, js, ref)
	if err != nil {
		return nil, 0, err
	}
	entry, err := bucket.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, 0, fmt.Errorf("%s: %w", key, ErrPipelineNotFound)
	case err != nil:
		return nil, 0, fmt.Errorf("get pipeline %s: %w", key, noAnswer(js.Conn(), err))
	}
	return entry.Value(), entry.Revision(), nil
}

// ListPipelines returns the pipelines whose ids are those of filter, in the order of their keys; an empty id of filter stands
// for all. Deleted pipelines are left out.
func ListPipelines(ctx context.Context, js jetstream.JetStream, filter recourse.Ref) ([]PipelineInfo, error) {
	bucket, err := pipelineBucket(ctx, js)
	if err != nil {
		return nil, err
	}
	// An empty id has a part of its own in the key, which no other id has.
	parts := strings.Split(filter.PipelineKey(), ".")
	for i, part := range parts {
		if part == recourse.Token("") {
			parts[i] = "*"
		}
	}
	// Not by a watch: that takes a consumer, and whoever may create one on the bucket could have pipelines delivered anywhere.
	stream, err := js.Stream(ctx, bucketStream)
	if err != nil {
		return nil, fmt.Errorf("list pipelines: %w", noAnswer(js.Conn(), err))
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(bucketSubjects+strings.Join(parts, ".")))
	if err != nil {
		return nil, fmt.Errorf("list pipelines: %w", noAnswer(js.Conn(), err))
	}
	var list []PipelineInfo
	for subject := range info.State.Subjects {
		key := strings.TrimPrefix(subject, bucketSubjects)
		entry, err := bucket.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue // deleted
		}
		if err != nil {
			return nil, fmt.Errorf("list pipelines: %s: %w", key, noAnswer(js.Conn(), err))
		}
		list = append(list, PipelineInfo{Key: key, Ref: refOfKey(key), Revision: entry.Revision(), Created: entry.Created().UTC()})
	}
	slices.SortFunc(list, func(a, b PipelineInfo) int { return strings.Compare(a.Key, b.Key) })
	return list, nil
}

// The stream behind the bucket, and what stands before the keys in its subjects.
const (
	bucketStream   = "KV_" + recourse.BucketPipelines
	bucketSubjects = "$KV." + recourse.BucketPipelines + "."
)

func pipelineBucket(ctx context.Context, js jetstream.JetStream) (jetstream.KeyValue, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	bucket, err := js.KeyValue(ctx, recourse.BucketPipelines)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, fmt.Errorf("bucket %s: %w: provision the account first", recourse.BucketPipelines, err)
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", recourse.BucketPipelines, noAnswer(js.Conn(), err))
	}
	return bucket, nil
}

func pipelineAt(ctx context.Context, js jetstream.JetStream, ref recourse.Ref) (jetstream.KeyValue, string, error) {
	ref.Execution = "-" // of no matter here, but Validate wants one
	if err := ref.Validate(); err != nil {
		return nil, "", err
	}
	bucket, err := pipelineBucket(ctx, js)
	return bucket, ref.PipelineKey(), err
}

// refOfKey is the inverse of [recourse.Ref.PipelineKey], as far as there is one.
func refOfKey(key string) recourse.Ref {
	var ids [4]string
	for i, part := range strings.SplitN(key, ".", len(ids)) {
		ids[i] = decodeID(part)
	}
	return recourse.Ref{Account: ids[0], Org: ids[1], Project: ids[2], Pipeline: ids[3]}
}

// decodeID undoes the escapes of an encoded id; a shortened one, or one that nothing here encoded, is returned as it is.
func decodeID(token string) string {
	if !strings.Contains(token, "=") {
		return token
	}
	out := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		if token[i] != '=' {
			out = append(out, token[i])
			continue
		}
		if i+2 >= len(token) {
			return token
		}
		high, low := hexDigit(token[i+1]), hexDigit(token[i+2])
		if high < 0 || low < 0 {
			return token
		}
		out = append(out, byte(high<<4|low))
		i += 2
	}
	return string(out)
}

func hexDigit(c byte) int { return strings.IndexByte("0123456789ABCDEF", c) }
