// Package broker prepares and inspects what Recourse needs of a NATS server beside messages: a server inside the process
// ([StartEmbedded]), the streams, bucket and durable consumers ([Provision]), and what is known of how safely the server keeps
// what it acknowledged ([InspectDurability]).
//
// # Order
//
// Connect, then Provision, then InspectDurability (it reads the streams), then work.
//
// # Guarantees
//
//   - Provision never makes a change by which messages, history or protection could be lost. Where that would be needed it changes
//     nothing at all and says what differs and how to mend it.
//   - Provision is idempotent, and any number of processes may call it at once.
//   - Two embedded servers never share a directory, also not in two processes.
//
// # What it does not do
//
// It neither publishes nor consumes, and it holds no credentials: the permissions of the roles stand in deploy/nats/accounts.conf
// and are tested here.
package broker
