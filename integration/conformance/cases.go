package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/recourse-dev/recourse"
)

// Test checks the implementation of a suite. Each case is an execution of its own.
func Test(t *testing.T, s *Suite) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *Suite)
	}{
		{"order", testOrder},
		{"retry", testRetry},
		{"retry-exhausted", testExhausted},
		{"retry-iteration", testIteration},
		{"retry-group", testRetryGroup},
		{"retry-group-nested", testRetryGroupNested},
		{"rollback-group", testRollbackGroup},
		{"rollback-stage", testRollbackStage},
		{"rollback-stage-in-flight", testRollbackInFlight},
		{"rollback-failed", testRollbackFailed},
		{"rollback-pipeline", testRollbackPipeline},
		{"abort", testAbort},
		{"mark-failure", testMarkFailure},
		{"pause", testPause},
		{"pause-times-out", testPauseTimesOut},
		{"repeated", testRepeated},
		{"closed", testClosed},
		{"killed", testKilled},
		{"killed-while-paused", testKilledPaused},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, s)
		})
	}
}

// Steps and stages in their order, beside each other where they are parallel; the end is reported, and nothing else.
func testOrder(t *testing.T, s *Suite) {
	e := s.start(t,
		stage("one", list(step("a", ""), parallel(step("b", gate("c")), step("c", "touch DIR/c")), step("d", "")), list(step("undo", ""))),
		stage("two", list(step("e", "")), "[]"),
		stage("three", list(step("f", "")), "[]", when("pipelineStatus", "Failure")),
		stage("four", list(step("g", "")), "[]", when("pipelineStatus", "All")))
	e.ended(recourse.Finished)
	e.wantFailures()
	trace := e.trace()
	if len(trace) > 2 {
		slices.Sort(trace[1:min(3, len(trace))]) // b and c, in any order
	}
	if want := []string{"a", "b", "c", "d", "e", "g"}; !slices.Equal(trace, want) {
		t.Errorf("the steps ran %v, want %v", trace, want)
	}
}

// A retry runs the step again, when it is due and not before, and reports the attempt it is.
func testRetry(t *testing.T, s *Suite) {
	e := s.start(t, stage("one", list(step("a", ""), step("b", fails("b", 2), on("AllErrors", retry(3, "0s, 1s", do(recourse.Abort)))), step("c", "")), "[]"))
	e.ended(recourse.Finished)
	e.wantTrace("a", "b", "b", "b", "c")
	e.wantFailures("one/b#1 Unknown", "one/b#2 Unknown")
	commands := e.commands()
	if len(commands) != 2 || commands[0].Command.Attempt != 2 || commands[1].Command.Attempt != 3 {
		t.Errorf("%d commands", len(commands))
	}
}

// After the last retry comes what the strategy says, here a rollback of the stage; what follows it is chosen by its when.
func testExhausted(t *testing.T, s *Suite) {
	e := s.start(t,
		stage("one", list(step("a", "exit 1", on("AllErrors", retry(1, "", do(recourse.StageRollback)))), step("never", "")), list(step("undo", ""))),
		stage("two", list(step("skipped", "")), "[]"),
		stage("three", list(step("also_skipped", "")), "[]", when("pipelineStatus", "Failure")),
		stage("four", list(step("runs", "")), "[]", when("pipelineStatus", "All")))
	e.ended(recourse.Finished)
	e.wantTrace("a", "a", "undo", "runs")
	e.wantFailures("one/a#1 Unknown", "one/a#2 Unknown")
}

// Iterations are nodes of their own, with attempts of their own.
func testIteration(t *testing.T, s *Suite) {
	e := s.start(t, stage("one", list(step("a", `mkdir DIR/first 2>/dev/null && exit 1; exit 0`, "strategy: {repeat: {times: 2, maxConcurrency: 1}}",
		on("AllErrors", retry(1, "", do(recourse.Abort))))), "[]"))
	e.ended(recourse.Finished)
	e.wantTrace("a", "a", "a")
	e.wantFailures("one/a[0]#1 Unknown")
}

// A group runs again from its start. Attempts are counted on.
func testRetryGroup(t *testing.T, s *Suite) {
	e := s.start(t, stage("one", list(
		group("g", list(step("a", ""), step("b", fails("b", 2)), step("c", "")), list(step("undo", "")), on("AllErrors", retryGroup(2, "0s, 1s", do(recourse.Abort)))),
		step("d", "")), "[]"))
	e.ended(recourse.Finished)
	e.wantTrace("a", "b", "a", "b", "a", "b", "c", "d")
	e.wantFailures("one/g/b#1 Unknown", "one/g/b#2 Unknown")
}

// A step that succeeded and is run again with its group fails with the attempt that it is. The retry of the inner group runs only that.
func testRetryGroupNested(t *testing.T, s *Suite) {
	e := s.start(t, stage("one", list(
		group("outer", list(step("a", ""), group("inner", list(step("b", "[ $(grep -c -x b DIR/trace) != 2 ]"), step("c", fails("c", 1))), "[]", on("AllErrors", retryGroup(2, "", do(recourse.Abort))))), "[]")), "[]"))
	e.ended(recourse.Finished)
	e.wantTrace("a", "b", "c", "b", "b", "c")
	e.wantFailures("one/outer/inner/c#1 Unknown", "one/outer/inner/b#2 Unknown")
}

// Only the rollbackSteps of the group run; it ends failed, so the rest of the stage is skipped and the stage counts as failed.
func testRollbackGroup(t *testing.T, s *Suite) {
	e := s.start(t,
		stage("one", list(
			group("g", list(step("a", ""), step("b", "exit 1")), list(step("undo_g1", ""), step("undo_g2", "")), on("AllErrors", do(recourse.StepGroupRollback))),
			step("skipped", ""), step("cleanup", "", when("stageStatus", "Failure"))), list(step("undo", ""))),
		stage("two", list(step("skipped_too", "")), "[]"),
		stage("three", list(step("runs", "")), "[]", when("pipelineStatus", "Failure")))
	e.ended(recourse.Finished)
	e.wantTrace("a", "b", "undo_g1", "undo_g2", "cleanup", "runs")
	e.wantFailures("one/g/b#1 Unknown")
}

// The rollbackSteps of the stage run in their order; those of a group in it do not.
func testRollbackStage(t *testing.T, s *Suite) {
	e := s.start(t,
		stage("zero", list(step("z", "")), list(step("undo_zero", ""))),
		stage("one", list(group("g", list(step("a", "exit 1")), list(step("undo_g", ""))), step("never", "")), list(step("undo_1", ""), group("undo_2", list(step("undo_2a", "")), "[]")), on("AllErrors", do(recourse.StageRollback))))
	e.ended(recourse.Finished)
	e.wantTrace("z", "a", "undo_1", "undo_2a")
	e.wantFailures("one/g/a#1 Unknown")
}

// A rollback begins when nothing of its scope runs any more; what fails meanwhile is reported, and not rolled back a second time.
func testRollbackInFlight(t *testing.T, s *Suite) {
	e := s.start(t, stage("one", list(parallel(step("a", gate("both")+"; exit 1"), step("b", "touch DIR/both; sleep 1; echo end_b >> DIR/trace; exit 1"))), list(step("undo", "")), on("AllErrors", do(recourse.StageRollback))))
	e.ended(recourse.Finished)
	trace := e.trace()
	undone := slices.Index(trace, "undo")
	if undone != len(trace)-1 || slices.Index(trace[undone:], "undo") != 0 {
		t.Errorf("the steps ran %v, want undo last and once", trace)
	}
	if failures := e.failures(); !slices.Contains(failures, "one/a#1 Unknown") {
		t.Errorf("reported were %q", failures)
	}
}

// A step of a rollback fails in its own section, and its own strategies decide.
func testRollbackFailed(t *testing.T, s *Suite) {
	e := s.start(t,
		stage("one", list(step("a", "exit 1", on("AllErrors", do(recourse.StageRollback)))), list(
			step("undo", fails("undo", 1), on("AllErrors", retry(1, "", do(recourse.MarkAsFailure)))),
			step("undo_more", "exit 1"), step("undo_never", ""), step("undo_last", "", when("stageStatus", "All")))),
		stage("two", list(step("runs", "")), "[]", when("pipelineStatus", "Failure")))
	e.ended(recourse.Finished)
	e.wantTrace("a", "undo", "undo", "undo_more", "undo_last", "runs")
	e.wantFailures("one/a#1 Unknown", "one/undo (rollbackSteps)#1 Unknown", "one/undo_more (rollbackSteps)#1 Unknown")
}

// All stages that ran are rolled back, the last first; nothing else is started.
func testRollbackPipeline(t *testing.T, s *Suite) {
	e := s.start(t,
		stage("one", list(step("a", "")), list(step("undo_one", ""))),
		stage("skipped", list(step("s", "")), list(step("undo_skipped", "")), when("pipelineStatus", "Failure")),
		stage("two", list(step("b", "")), list(step("undo_two1", ""), step("undo_two2", ""))),
		stage("three", list(step("c", "exit 1", on("AllErrors", do(recourse.PipelineRollback))), step("never", "")), list(step("undo_three", ""))),
		stage("four", list(step("never_too", "")), "[]", when("pipelineStatus", "All")))
	e.ended(recourse.Finished)
	e.wantTrace("a", "b", "c", "undo_three", "undo_two1", "undo_two2", "undo_one")
}

// What runs is killed, with all it started; nothing is rolled back, and the execution is reported as aborted.
func testAbort(t *testing.T, s *Suite) {
	e := s.start(t, stage("one", list(
		parallel(
			step("long", "(trap '' TERM INT HUP; echo $BASHPID > DIR/child; while :; do sleep 60; done) & wait"),
			step("a", "while [ ! -s DIR/child ]; do sleep 0.02; done; exit 1", on("AllErrors", do(recourse.Abort)))),
		step("never", "")), list(step("undo", ""))), stage("two", list(step("never_too", "")), "[]", when("pipelineStatus", "All")))
	e.ended(recourse.Aborted)
	trace := e.trace()
	slices.Sort(trace)
	if want := []string{"a", "long"}; !slices.Equal(trace, want) {
		t.Errorf("the steps ran %v, want %v", trace, want)
	}
	e.eventually("what the step started is gone", func() bool { return gone(t, filepath.Join(e.dir, "child")) })
}

// gone reports whether the process whose number is in a file does not run any more.
func gone(t *testing.T, file string) bool {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		t.Fatal(err)
	}
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ") // dead, and nobody asked
}

// The rest of the stage is skipped, as far as its when does not say otherwise; nothing is rolled back.
func testMarkFailure(t *testing.T, s *Suite) {
	e := s.start(t,
		stage("one", list(parallel(step("a", "exit 1"), step("beside", "")), step("skipped", ""), step("always", "", when("stageStatus", "All"))), list(step("undo", ""))),
		stage("two", list(step("skipped_too", "")), "[]"),
		stage("three", list(step("runs", "")), "[]", when("pipelineStatus", "Failure")))
	e.ended(recourse.Finished)
	trace := e.trace()
	if len(trace) > 1 {
		slices.Sort(trace[:2])
	}
	if want := []string{"a", "beside", "always", "runs"}; !slices.Equal(trace, want) {
		t.Errorf("the steps ran %v, want %v", trace, want)
	}
	e.wantFailures("one/a#1 Unknown")
}

// Nothing behind the step runs until somebody has answered, and then what was answered is done.
func testPause(t *testing.T, s *Suite) {
	all := []recourse.Action{
		recourse.Retry, recourse.RetryStepGroup, recourse.MarkAsSuccess, recourse.Ignore, recourse.MarkAsFailure, recourse.ProceedWithDefaultValues,
		recourse.StepGroupRollback, recourse.StageRollback, recourse.PipelineRollback, recourse.Abort,
	}
	for action, want := range map[recourse.Action][]string{
		recourse.Retry:                    {"before", "a", "b", "b", "c", "success", "all"},
		recourse.RetryStepGroup:           {"before", "a", "b", "a", "b", "c", "success", "all"},
		recourse.MarkAsSuccess:            {"before", "a", "b", "c", "success", "all"},
		recourse.Ignore:                   {"before", "a", "b", "c", "success", "failure", "all"},
		recourse.ProceedWithDefaultValues: {"before", "a", "b", "c", "success", "all"},
		recourse.MarkAsFailure:            {"before", "a", "b", "failure", "all"},
		recourse.StepGroupRollback:        {"before", "a", "b", "undo_g", "failure", "all"},
		recourse.StageRollback:            {"before", "a", "b", "undo", "all"},
		recourse.PipelineRollback:         {"before", "a", "b", "undo", "undo_before"},
		recourse.Abort:                    {"before", "a", "b"},
	} {
		t.Run(action.String(), func(t *testing.T) {
			t.Parallel()
			e := s.start(t,
				stage("first", list(step("before", "")), list(step("undo_before", ""))),
				stage("one", list(group("g", list(step("a", ""), step("b", fails("b", 1), on("AllErrors", ask("1h", recourse.Abort, all...))), step("c", "")), list(step("undo_g", "")))), list(step("undo", ""))),
				stage("success", list(step("success", "")), "[]"),
				stage("failure", list(step("failure", "")), "[]", when("pipelineStatus", "Failure")),
				stage("all", list(step("all", "")), "[]", when("pipelineStatus", "All")))
			pause := e.command(recourse.VerbPause, 1)
			e.wantTrace("before", "a", "b")
			e.answer(pause, action)
			end := recourse.Finished
			if action == recourse.Abort {
				end = recourse.Aborted
			}
			e.ended(end)
			e.wantTrace(want...)
			e.wantFailures("one/g/b#1 Unknown")
		})
	}
}

// Where nobody answers, what the strategy says then is done.
func testPauseTimesOut(t *testing.T, s *Suite) {
	e := s.start(t, stage("one", list(step("a", "exit 1", on("AllErrors", ask("1s", recourse.MarkAsSuccess))), step("b", "")), "[]"))
	e.ended(recourse.Finished)
	e.wantTrace("a", "b")
}

// A command that comes again, and one with a version below the last, are left out.
func testRepeated(t *testing.T, s *Suite) {
	e := s.start(t, stage("one", list(
		step("a", fails("a", 1), on("AllErrors", retry(1, "", do(recourse.Abort)))),
		step("b", fails("b", 1), on("AllErrors", ask("1h", recourse.Abort))),
		step("c", gate("c")),
		step("d", fails("d", 1), on("AllErrors", ask("1h", recourse.Abort))),
		step("e", "")), "[]"))
	first, pause := e.command(recourse.VerbRetry, 1), e.command(recourse.VerbPause, 1)
	e.again(first) // stale
	e.again(pause) // a repeat, and again the newest of the chain
	e.answer(pause, recourse.Retry)
	second := e.command(recourse.VerbRetry, 2)
	e.ran("c", 1)
	e.again(first)
	e.again(pause)
	e.again(second)
	e.touch("c")
	e.answer(e.command(recourse.VerbPause, 2), recourse.MarkAsSuccess) // it is not run again, unless an earlier retry counted for it
	e.ended(recourse.Finished)
	e.wantTrace("a", "a", "b", "b", "c", "d", "e")
	e.wantFailures("one/a#1 Unknown", "one/b#1 Unknown", "one/d#1 Unknown")
}

// An answer that aborts is an abort: nothing more is started.
func testClosed(t *testing.T, s *Suite) {
	e := s.start(t, stage("one", list(step("a", "exit 1", on("AllErrors", ask("1h", recourse.MarkAsSuccess))), step("never", "")), "[]"))
	pause := e.command(recourse.VerbPause, 1)
	e.answer(pause, recourse.Abort)
	e.ended(recourse.Aborted)
	e.wantTrace("a")
}

// Killed and started again, it goes on: what has ended is not run again, what ran counts as failed, and a wait goes on.
func testKilled(t *testing.T, s *Suite) {
	e := s.start(t, stage("one", list(
		step("a", ""),
		parallel(
			step("runs", "[ $(grep -c -x runs DIR/trace) -gt 1 ] || "+gate("never"), on("AllErrors", retry(1, "", do(recourse.Abort)))),
			step("waits", fails("waits", 1), on("AllErrors", retry(1, "3s", do(recourse.Abort))))),
		step("b", "")), "[]"))
	e.ran("runs", 1)
	e.eventually("a retry waits", func() bool { return len(e.of(recourse.FamilyDecision)) > 0 })
	e.kill()
	e.launch(true)
	e.ended(recourse.Finished)
	count := make(map[string]int)
	for _, one := range e.trace() {
		count[one]++
	}
	if count["a"] != 1 || count["runs"] != 2 || count["waits"] != 2 || count["b"] != 1 {
		t.Errorf("the steps ran %v, want a and b once, the others twice", e.trace())
	}
	e.wantFailures("one/runs#1 DelegateRestart", "one/waits#1 Unknown")
}

// Killed while it is paused, and answered while it is down: the answer is carried out when it is there again.
func testKilledPaused(t *testing.T, s *Suite) {
	e := s.start(t, stage("one", list(step("a", fails("a", 1), on("AllErrors", ask("1h", recourse.Abort))), step("b", "")), "[]"))
	pause := e.command(recourse.VerbPause, 1)
	e.kill()
	e.answer(pause, recourse.Retry)
	e.launch(true)
	e.ended(recourse.Finished)
	e.wantTrace("a", "a", "b")
	e.wantFailures("one/a#1 Unknown")
}
