// Package decide decides what happens after a failure, an answer, the end of an execution or a wait that came due. It is a pure
// function of the plan, the execution's state, the input and the clock value given (R1 to R13): no clock, no I/O, no log, no error.
// Every input gets an action, a reason and a trail in which each candidate strategy appears with why it did or did not apply.
//
// It also folds records into the state that the next decision builds on. Folding the recorded inputs with their clock values
// through [Decide] gives every record again, byte for byte.
package decide
