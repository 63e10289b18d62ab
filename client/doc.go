// Package client speaks the vocabulary of Recourse over NATS: delegates report failures with it, orchestrators handle the
// commands that come of them, operators answer manual interventions, and all of them connect with its settings.
//
// It decides nothing and creates no streams. It publishes inputs into RECOURSE_INBOX, reads RECOURSE_JOURNAL, and keeps
// pipelines in the bucket RECOURSE_PIPELINES; an administrator provisions these.
//
// # Guarantees
//
//   - What a call reports as stored, the broker has stored. What failed may be stored all the same; to repeat it is harmless,
//     since an attempt, an answer and the end of an execution are each decided once (R12).
//   - Free text is cut and redacted before it leaves the program.
//   - Commands of one execution are handled in order, and each version once; [Orchestrator.Handle] says what a crash changes.
//   - The trace of the caller's ctx goes along in W3C headers ([HeaderCarrier]), as does a CloudEvents envelope in binary mode.
//   - Ids never reach a subject raw; see [recourse.Token].
//
// # Delegates
//
// [Delegate.Report] is, on the command line,
//
//	nats req recourse.acme.default.shop.deploy.ex42.failure.runner-1 \
//	  '{"account":"acme","org":"default","project":"shop","pipeline":"deploy","execution":"ex42",
//	    "node":"prod/rollout","attempt":1,"errors":["Timeout"]}'
//
// which prints the stream and the sequence under which the failure is stored. [Classify] finds the error types of a Go error.
//
// # Orchestrators
//
// [Orchestrator.Handle] pulls from a durable consumer as these do, without the order and without leaving out repeats:
//
//	nats consumer add RECOURSE_JOURNAL acme --pull --deliver all --ack explicit --wait 30s --max-deliver=-1 \
//	  --filter 'recourse.acme.*.*.*.*.command.>' --defaults
//	nats consumer next RECOURSE_JOURNAL acme --ack
//
// [Orchestrator.Finished] is
//
//	nats req recourse.acme.default.shop.deploy.ex42.lifecycle.ci \
//	  '{"account":"acme","org":"default","project":"shop","pipeline":"deploy","execution":"ex42","event":"finished"}'
//
// # Operators
//
// [Operator.Answer] is the first of these, and then the record that shows up in the second:
//
//	nats req recourse.acme.default.shop.deploy.ex42.intervention.ann \
//	  '{"account":"acme","org":"default","project":"shop","pipeline":"deploy","execution":"ex42",
//	    "id":"a1","intervention":3,"action":"Retry","why":"the registry is back"}'
//	nats sub 'recourse.acme.default.shop.deploy.ex42.>'
//
// [Operator.Control] is the same for a pending retry, on the subject control.<principal>:
//
//	nats req recourse.acme.default.shop.deploy.ex42.control.ann \
//	  '{"account":"acme","org":"default","project":"shop","pipeline":"deploy","execution":"ex42",
//	    "id":"c1","wait":3,"do":"postpone","for":"30m","why":"maintenance until noon"}'
//
// [Operator.AnswerAll] and [Operator.ControlAll] say many things side by side. [Operator.Open] and [Operator.Retries] look at the
// newest record of each execution that paused, or retried, and did not end:
//
//	nats stream get RECOURSE_JOURNAL --last-for 'recourse.acme.default.shop.deploy.ex42.>'
//
// # Pipelines
//
// [PutPipeline], [GetPipeline] and [ListPipelines] are
//
//	nats kv put RECOURSE_PIPELINES acme.default.shop.deploy < pipeline.yaml
//	nats kv get RECOURSE_PIPELINES acme.default.shop.deploy --raw
//	nats kv ls RECOURSE_PIPELINES
package client
