package puback

import (
	"testing"

	"github.com/recourse-dev/recourse/internal/deps"
)

func TestImports(t *testing.T) { deps.Module(t) }
