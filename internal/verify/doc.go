// Package verify checks what must hold of the streams of Recourse whatever failed meanwhile, from the streams alone. It reads inputs and
// chains in its own way and decides nothing, except that it folds the decisions again; so it can tell a worker that is wrong.
//
//	I1  every input has exactly one record or one rejection; every record has an input
//	I2  every command is the one its record lists
//	I3  every wait ends exactly once: fired and not before it was due, superseded, or cancelled by the end
//	I4  after an abort or the end of an execution nothing but plain records follows
//	I5  folding the decisions over recorded inputs, clock values and revisions reproduces every record byte for byte
//	I6  one chain per execution: versions 1 … m, each naming its predecessor
//	I7  retries per node at most what the strategy allows, waits within its bounds
//	I8  ids in subject, body and input agree
//	I9  nothing undecided, no wait overdue
//
// [Checker] is the check: it is fed with the messages of the streams in their order and remembers per execution what the next record is
// checked with. [Check] feeds it from memory, [Run] from a server, up to a watermark.
//
// Memory: a bounded number of executions is remembered in full ([Config].Live, a few KiB each), the others by 80 bytes; they are read again
// where another record follows. Inputs are remembered until the record is seen that names them.
//
// What it cannot see: what retention removed, inputs included (a record whose input is gone is not held against anybody, nor is a chain
// whose beginning is); what an orchestrator did with a command (I2); which actions a principal may answer with (I8), which only the broker
// knows; decisions by a pipeline's revision that is not kept any more (of I5 their state alone is checked, I7 not at all); and it must be of
// the version that decided: another one may word a trail in another way, which I5 takes for a difference.
package verify
