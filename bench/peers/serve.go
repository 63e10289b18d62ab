package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/recourse-dev/recourse/internal/broker"
)

// durability is when a server brings to the disk what it has acknowledged.
type durability string

const (
	each  durability = "each"  // before it acknowledges: a power cut loses nothing
	later durability = "later" // now and then: a power cut loses what came since
)

// startWithin bounds the start of a server.
const startWithin = 30 * time.Second

// serve keeps a server in a directory of its own until standard input ends, then stops it and removes the directory.
func serve(kind string, when durability) (err error) {
	ctx := untilClosed()
	runtime.LockOSThread() // what is started ends with this thread, if this process is killed
	dir, err := os.MkdirTemp("", "bench-peers-"+kind+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	switch kind {
	case "nats":
		return serveNATS(ctx, dir, when)
	case "postgres":
		return servePostgres(ctx, dir, when)
	case "redis":
		return serveRedis(ctx, dir, when)
	default:
		return fmt.Errorf("no server %q", kind)
	}
}

func serveNATS(ctx context.Context, dir string, when durability) error {
	cfg := broker.EmbeddedConfig{Listen: "127.0.0.1:0", Dir: dir, Sync: broker.SyncAlways}
	if when == later {
		cfg.Sync = broker.SyncInterval
	}
	server, err := broker.StartEmbedded(cfg)
	if err != nil {
		return err
	}
	ready(os.Getpid(), server.URL())
	<-ctx.Done()
	stopping, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	return server.Shutdown(stopping)
}

// postgresBin returns a binary of PostgreSQL, which Debian does not put on the path. "" is none.
func postgresBin(name string) string {
	if found, err := exec.LookPath(name); err == nil {
		return found
	}
	all, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	slices.SortFunc(all, func(a, b string) int { return len(a) - len(b) }) // 9.6 before 15, which the alphabet has the other way round
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

// unprivileged returns a user that PostgreSQL runs as: it refuses root. Negative is the user that we are.
func unprivileged() (uid, gid int, err error) {
	if os.Geteuid() != 0 {
		return -1, -1, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ = strconv.Atoi(u.Uid)
		gid, _ = strconv.Atoi(u.Gid)
		return uid, gid, nil
	}
	return 0, 0, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

// postgresSettings are those that a small server is given beside its defaults; flushing is set apart.
var postgresSettings = []string{
	"fsync=on", "shared_buffers=512MB", "max_wal_size=4GB", "default_toast_compression=lz4", "max_connections=200", "unix_socket_directories=",
}

func servePostgres(ctx context.Context, dir string, when durability) error {
	uid, gid, err := unprivileged()
	if err != nil {
		return err
	}
	password, passwordFile, data := rand.Text(), filepath.Join(dir, "password"), filepath.Join(dir, "data")
	if err := os.WriteFile(passwordFile, []byte(password), 0o600); err != nil {
		return err
	}
	if uid >= 0 {
		if err := errors.Join(os.Chown(dir, uid, gid), os.Chown(passwordFile, uid, gid)); err != nil {
			return err
		}
	}
	initialize := exec.Command(postgresBin("initdb"), "-D", data, "-U", "bench", "--auth=scram-sha-256", "--pwfile="+passwordFile, "-E", "UTF8", "--locale=C", "--no-sync")
	initialize.SysProcAttr, initialize.Dir = kept(uid, gid), dir
	if out, err := initialize.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	address, err := freePort()
	if err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(address)
	args := []string{"-D", data, "-h", host, "-p", port}
	for _, setting := range postgresSettings {
		args = append(args, "-c", setting)
	}
	args = append(args, "-c", "synchronous_commit="+map[durability]string{each: "on", later: "off"}[when])
	cmd := exec.Command(postgresBin("postgres"), args...)
	cmd.SysProcAttr, cmd.Dir = kept(uid, gid), dir
	address = (&url.URL{Scheme: "postgres", User: url.UserPassword("bench", password), Host: address, Path: "postgres", RawQuery: "sslmode=disable"}).String()
	return keep(ctx, cmd, syscall.SIGINT, address, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, address)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

func serveRedis(ctx context.Context, dir string, when durability) error {
	address, err := freePort()
	if err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(address)
	password := rand.Text()
	cmd := exec.Command("redis-server", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf("bind %s\nport %s\nrequirepass %s\ndir %s\nsave \"\"\nappendonly yes\nappendfsync %s\nloglevel warning\n",
		host, port, password, dir, map[durability]string{each: "always", later: "everysec"}[when]))
	cmd.SysProcAttr, cmd.Dir = kept(-1, -1), dir
	address = (&url.URL{Scheme: "redis", User: url.UserPassword("default", password), Host: address}).String()
	return keep(ctx, cmd, syscall.SIGTERM, address, func(ctx context.Context) error {
		client, err := redisClient(address, 1)
		if err != nil {
			return err
		}
		defer client.Close()
		return client.Ping(ctx).Err()
	})
}

func redisClient(address string, connections int) (*redis.Client, error) {
	options, err := redis.ParseURL(address)
	if err != nil {
		return nil, err
	}
	options.PoolSize = connections
	return redis.NewClient(options), nil
}

// keep starts a server, says so once it answers, and ends it with a signal when ctx ends.
func keep(ctx context.Context, cmd *exec.Cmd, stop syscall.Signal, address string, answers func(context.Context) error) error {
	var log tail
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	starting, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for up := false; !up; {
		if up = answers(starting) == nil; up {
			break
		}
		select {
		case err := <-ended:
			return fmt.Errorf("%s ended: %w\n%s", filepath.Base(cmd.Path), err, log.data)
		case <-starting.Done():
			_ = cmd.Process.Kill()
			<-ended
			return fmt.Errorf("%s does not answer within %v\n%s", filepath.Base(cmd.Path), startWithin, log.data)
		case <-again.C:
		}
	}
	ready(cmd.Process.Pid, address)
	select {
	case err := <-ended:
		return fmt.Errorf("%s ended: %w\n%s", filepath.Base(cmd.Path), err, log.data)
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(stop)
	timer := time.AfterFunc(startWithin, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	return <-ended
}

// tail keeps the first few lines that a server says; what it says later is not needed.
type tail struct{ data []byte }

func (t *tail) Write(p []byte) (int, error) {
	if len(t.data) < 8<<10 {
		t.data = append(t.data, p...)
	}
	return len(p), nil
}

// freePort returns an address on loopback that nobody listens on just now.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
