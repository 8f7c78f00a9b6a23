module github.com/optiinfra/performance-agent/tools/errorlint

go 1.26

tool github.com/polyfloyd/go-errorlint

require (
	github.com/polyfloyd/go-errorlint v1.8.0 // indirect
	golang.org/x/mod v0.24.0 // indirect
	golang.org/x/sync v0.12.0 // indirect
	golang.org/x/tools v0.31.0 // indirect
)
