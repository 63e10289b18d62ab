package doctor

import (
	"context"
	"fmt"
	"strings"

	"github.com/recourse-dev/recourse/internal/broker"
)

const warnAt, failAt = 0.8, 0.95 // of a limit

// share says how much of a limit is used, "" where that is little or there is no limit.
func share(used, limit float64) string {
	if limit <= 0 || used/limit < warnAt {
		return ""
	}
	return fmt.Sprintf("%.0f %%", 100*used/limit)
}

func (e *examination) nearly(check string, part float64, says, mend string) {
	if part >= failAt {
		e.fail(check, mend, "%s", says)
	} else {
		e.warn(check, mend, "%s", says)
	}
}

// mendDurability fits whatever may be lost: in memory, synced late, or nobody knows.
const mendDurability = "set sync_interval: always in the jetstream block of the server, or use three replicas; streams in memory are to be created anew with file storage; --monitor-url lets the sync mode be seen"

// durability says whether a power cut could lose what was acknowledged.
func (e *examination) durability(ctx context.Context) {
	const check = "durability"
	if len(e.found) < len(broker.StreamNames()) {
		e.skip(check, "not all streams could be looked at")
		return
	}
	d, err := broker.InspectDurability(ctx, e.nc, e.js, e.MonitorURL)
	switch {
	case err != nil:
		e.skip(check, "%v", err)
	case d.Warning() != "":
		e.warn(check, mendDurability, "%s: a power cut, or a restart where they are in memory, can lose what was acknowledged", d)
	default:
		e.ok(check, "%s", d)
	}
}

// space looks how near JetStream is to its limits, of the account and of the server.
func (e *examination) space(ctx context.Context) {
	const check = "space"
	if e.off {
		return
	}
	var says []string
	near := false
	look := func(what string, used, limit float64, mend string) {
		if limit <= 0 {
			says = append(says, fmt.Sprintf("%s: %s used, no limit", what, size(used)))
			return
		}
		text := fmt.Sprintf("%s: %s of %s used", what, size(used), size(limit))
		if share(used, limit) != "" {
			near = true
			e.nearly(check, used/limit, text+": at the limit nothing can be stored", mend)
			return
		}
		says = append(says, text)
	}
	if e.may(ctx, apiInfo) {
		ask, cancel := context.WithTimeout(ctx, askWithin)
		account, err := e.js.AccountInfo(ask)
		cancel()
		if err == nil {
			look("account", float64(account.Store), float64(account.Limits.MaxStore), "raise max_file of the account, or keep less (--max-age of the worker that provisions)")
			for name, tier := range account.Tiers {
				look("account, tier "+name, float64(tier.Store), float64(tier.Limits.MaxStore), "raise the limit of the tier")
			}
		}
	}
	if e.MonitorURL != "" {
		var server jsz
		if err := broker.AskMonitor(ctx, e.MonitorURL, "jsz", &server); err != nil {
			near = true
			e.warn(check, "check --monitor-url", "%v", err)
		} else {
			look("server", server.Used, server.Config.Max, "free disk space or raise max_file_store of the server, or keep less (--max-age of the worker that provisions)")
		}
	}
	switch {
	case len(says) == 0 && !near:
		e.skip(check, "this user may not ask for the account's limits; --monitor-url names where the server's are")
	case !near:
		e.ok(check, "%s", strings.Join(says, "; "))
	}
}

// jsz is the part of the server's JetStream variables that matters here; bytes on disk.
type jsz struct {
	Used   float64 `json:"storage"`
	Config struct {
		Max float64 `json:"max_storage"`
	} `json:"config"`
}

// size writes a number of bytes for people.
func size(bytes float64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if bytes < 1024 {
			return fmt.Sprintf("%.3g %s", bytes, unit)
		}
		bytes /= 1024
	}
	return fmt.Sprintf("%.3g TiB", bytes)
}
