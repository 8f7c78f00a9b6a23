package tgi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/optiinfra/performance-agent/pkg/enginesim/sim"
)

// router is the part of the engine that answers HTTP, as a process of its own.
const router = "text-generation-router"

// crashing bounds how long a router whose shard is gone takes to tell its clients.
const crashing = 2 * time.Second

// supervise is the launcher once the shard is ready: it starts the router and ends the other one when
// either ends by itself, with exit code 1.
func (p *process) supervise(ctx context.Context, set *settings, children *sim.Children) int {
	web, err := children.Part(p.env, sim.OwnGroup, router)
	if err != nil {
		return p.refuse(err)
	}
	select {
	case ended := <-children.Ended():
		if ended == web {
			fmt.Fprintln(p.env.Stderr, "ERROR text_generation_launcher: Webserver Crashed")
			return p.refuse(errWebserver)
		}
		fmt.Fprintln(p.env.Stderr, "ERROR text_generation_launcher: Shard 0 crashed")
		web.Signal(syscall.SIGUSR1)
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), crashing)
		defer cancel()
		web.Wait(limit)
		return p.refuse(errShard)
	case <-ctx.Done():
	}
	p.log.Print("Terminating webserver")
	p.log.Print("Waiting for webserver to gracefully shutdown")
	web.Signal(syscall.SIGTERM)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(set.graceful)*time.Second)
	defer cancel()
	web.Wait(limit) // one that has to be killed is no reason for another exit code
	p.env.StartUp(context.WithoutCancel(ctx), []sim.Phase{{Lasts: leaving, Lines: []string{"webserver terminated", "Shutting down shards"}}}, p.log.Print)
	return 0
}

// The launcher's last words about either of its children.
var (
	errWebserver = errors.New("WebserverFailed")
	errShard     = errors.New("ShardFailed")
)

// route is the router: it serves until SIGTERM, and fails all that is open when the launcher says that
// the shard is gone.
func (p *process) route(ctx context.Context, set *settings) int {
	sim.Title(router)
	lost := make(chan os.Signal, 1)
	signal.Notify(lost, syscall.SIGUSR1)
	defer signal.Stop(lost)
	if err := set.fit(p.machine); err != nil {
		return p.refuse(err)
	}
	w, err := p.start(ctx, set)
	if err != nil {
		return p.refuse(err)
	}
	defer w.stop()
	select {
	case <-ctx.Done():
		w.drain()
		return 0
	case <-lost:
	}
	w.lost.Store(true)
	w.engine.CancelAll()
	limit, cancel := context.WithTimeout(w.life, crashing/2)
	defer cancel()
	w.web.Shutdown(limit)
	return 1
}
