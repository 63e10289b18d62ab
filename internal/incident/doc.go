// Package incident says what goes wrong across executions: failures grouped by pipeline, error types, node and what was decided, worst
// first, with the retries that wait and the questions that are open.
//
// [Read] goes over the journal once, over the headers of its records only, with a few readers side by side over ranges of sequences;
// [Tally] counts, in whatever order the records come. Bodies are not read: what is needed stands in the headers
// ([recourse.HeaderFailure], [recourse.HeaderDueAt], [recourse.HeaderEnds], [recourse.HeaderCancels]).
//
// Bounds: at most [MaxIncidents] groups, what is beyond is counted together; about 40 bytes for each execution of a group and 100 for each
// wait that began or ended in the time looked at. It does not see rejected inputs, nor failures that nobody decided yet.
package incident
