// Package simulate runs a whole pipeline in virtual time: given which attempts fail and what people answer, it says what is decided,
// when, and how each stage ends. It is a dumb orchestrator around the real engine: every failure, answer and wait that comes due goes
// through [decide.Decide] and [decide.Seal], and what happens next is the command that came out.
//
// # What runs when
//
//   - Stages, and the steps of a stage or group, run in the order of the YAML; what stands beside each other starts at the same instant.
//     An attempt takes [Scenario.StepDuration]. At one instant, what started first ends first.
//   - A stage or group may fail itself: before the first of its steps. Ignored or marked as success, its steps do not run.
//   - What is in flight when a rollback, a group retry or an abort is ordered ends first; its failure is decided as well (R11). Then the
//     rollbackSteps of the scope run, or the group runs again from its start. Attempts are counted on.
//   - A pipeline rollback runs the rollbackSteps of the current stage, then those of the finished ones, the last first. A stage that was
//     rolled back already is not rolled back again.
//
// # When (R13)
//
// [decide.NextStage] says which statuses a stage lets run. With several stages before, Success runs where each of them lets it,
// Failure where one of them does; skipped stages do not count. Of a step, stageStatus is read in the same way from its own stage so
// far. A step under rollbackSteps runs while no rollback step has failed, and with Failure or All also after that. The condition
// beside a status is not evaluated; it counts as true. For the iterations of a loop the `when` is looked at once, before the first.
//
// # What it does not do
//
// It does not run anything, evaluate expressions or know how long a step takes. A looping strategy whose count only a running execution
// knows has one iteration; iterations are numbered from 0. Jitter is drawn for an execution of its own, so a real one waits otherwise.
// A run ends after [MaxWork] attempts and inputs with [ErrTooLong].
package simulate
