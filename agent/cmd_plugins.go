package main

import (
	"errors"
	"fmt"
	"log/slog"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/optiinfra/performance-agent/agent/adapter/manifest"
)

func newPluginsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "plugins", Short: "Sign and verify engine adapters"}
	cmd.AddCommand(newPluginsKeygen(), newPluginsSign(), newPluginsVerify())
	return cmd
}

func newPluginsKeygen() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen PRIVATE_KEY PUBLIC_KEY",
		Short: "Make the key pair that signs plugins",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := manifest.NewKey(args[0], args[1]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %s (keep it away from the agents' hosts) and %s (plugins.public_key)\n", args[0], args[1])
			return nil
		},
	}
}

func newPluginsSign() *cobra.Command {
	p, key := DefaultConfig().Plugins, ""
	cmd := &cobra.Command{
		Use:   "sign --key PRIVATE_KEY",
		Short: "Write the signed list of the plugins in a folder",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if key == "" {
				return errors.New("name the private key with --key (perf-agent plugins keygen makes one)")
			}
			if err := manifest.Sign(p.Dir, p.Manifest, key); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "wrote", p.Manifest)
			return nil
		},
	}
	cmd.Flags().StringVar(&p.Dir, "dir", p.Dir, "folder of plugins")
	cmd.Flags().StringVar(&p.Manifest, "manifest", p.Manifest, "list to write, outside of the folder")
	cmd.Flags().StringVar(&key, "key", "", "private key")
	return cmd
}

func newPluginsVerify() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Start each plugin as the agent would and say whether it may run",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(o.file)
			if err != nil {
				return err
			}
			o.applyPlugins(cmd, &cfg)
			host, err := newAdapters(cfg, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer func() { _ = host.Close() }() // it has nothing to report
			names := host.Names()
			if len(names) == 0 {
				return fmt.Errorf("there are no plugins (%s…) in %s", manifest.Prefix, cfg.Plugins.Dir)
			}
			out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			bad := 0
			for _, name := range names {
				verdict := "may run"
				if _, err := host.Adapter(cmd.Context(), name); err != nil {
					verdict, bad = err.Error(), bad+1
				}
				fmt.Fprintf(out, "%s\t%s\n", name, verdict)
			}
			if err := out.Flush(); err != nil {
				return err
			}
			if bad > 0 {
				return exitCode(1)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.file, "config", "", "configuration file (YAML)")
	o.bindPlugins(f)
	return cmd
}
