// Package run is the reference orchestrator, and the delegate with it: it runs the script steps of a pipeline as processes of this
// machine, reports what fails to the workers and carries out what they decide. docs/orchestrators.md says what any orchestrator must do;
// integration/conformance checks it.
//
// # Order
//
// All that changes a run goes through one goroutine, one input at a time: an attempt that ended, a record of the execution's chain, an
// interruption. An input is first appended to the run's own journal and then applied to the [engine], which does no I/O and looks at no
// clock. So the same inputs give the same run again: that is how a killed run is resumed.
//
//	attempt ends ─┐
//	record read ──┼─► journal (fsync) ─► engine ─► begin, kill, report, tell
//	interrupted ──┘
//
// # Guarantees
//
//   - A version of the chain is carried out once; lower ones and repeats are left out.
//   - An attempt is in the journal before its process starts. One that was started and did not end before the run was killed is never
//     started again: it counts as failed (DelegateRestart), unless its script went on and succeeded, and the same attempt is reported
//     however often the run is resumed.
//   - The processes of an attempt are one group. It ends with the attempt: with its shell, its timeout, an abort.
//   - The end of the execution is reported last, when no process is left.
//
// # What it does not do
//
// It runs steps of the types ShellScript and Run with Bash or Sh, on this machine and in no container. Of expressions it knows variables,
// fields of the YAML, and the values of iterations; a condition with others counts as true. It keeps no output variables, and enforces
// timeouts of steps only.
package run
