// Package recourse is the vocabulary of Recourse: what delegates report, what the worker decides, what orchestrators
// carry out and what people answer, together with its JSON and its NATS subjects. It holds data only; it neither decides
// (internal/decide) nor talks to a broker (client).
//
// # Messages
//
//   - [Failure]: an attempt of a node failed. Published by delegates.
//   - [Answer]: a person answered a manual intervention. Published by operators.
//   - [Control]: a person ran, postponed or cancelled a pending retry. Published by operators.
//   - [Lifecycle]: an execution finished or was aborted. Published by orchestrators.
//   - [Record]: the one decision on one of these, or on a wait that came due. Appended by workers; where it has a
//     [Command], orchestrators carry that out.
//
// # Guarantees of the codec
//
// Decoding is strict: a duplicate or unknown key, an id outside its bounds, nesting deeper than [MaxDepth] or a message
// larger than [MaxSize] is refused with a *[DecodeError] that names the reason. A schema number this version does not know
// is recognised as such ([ReasonFutureSchema]) before anything else in the message is looked at. Encoding is
// deterministic: equal values give equal bytes.
package recourse
