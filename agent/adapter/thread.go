package adapter

import (
	"log/slog"
	"runtime"

	"github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
)

// startOnOwnThread starts a plugin from a thread that gave up gaining privileges, which the plugin
// inherits: set-user-ID programs do nothing for it. The thread has to live as long as the plugin,
// because the plugin's death signal is tied to it, and ends with release, as it cannot be given
// back to other goroutines.
func startOnOwnThread(c *plugin.Client, log *slog.Logger) (release func(), err error) {
	started, stop, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			log.Warn("plugin may gain privileges: no_new_privs is not available", "error", err)
		}
		_, err := c.Start()
		started <- err
		<-stop
	}()
	err = <-started
	return func() {
		close(stop)
		<-ended
	}, err
}
