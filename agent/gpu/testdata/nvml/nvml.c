/* A stand-in for libnvidia-ml.so.1, for tests of perf-gpu through real C calls. What it answers is in
 * the file that FAKE_NVML names, read anew at each call; lines are
 *
 *   KEY[.DEVICE] VALUE        a value; one for a device wins over one for all. In text, _ is a space
 *   FUNCTION[.DEVICE] CODE    the function's return code
 *   hang FUNCTION             the function does not return
 *
 * Which functions exist is decided at link time, by a version script; of those with versions, all are here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_FOUND = 6, INVALID = 2, SHORT = 7, NOT_SUPPORTED = 3 };

/* Devices are numbers from 1 up; MIG instances of device d are 100 * d + place. */
struct device { int number; };
static struct device devices[2000];
typedef struct device *handle;

static int find_text(const char *key, char out[128]) {
	const char *path = getenv("FAKE_NVML");
	FILE *f = path ? fopen(path, "r") : NULL;
	char name[128], value[128];
	int found = 0;
	while (f && fscanf(f, "%127s %127s", name, value) == 2) {
		if (strcmp(name, "hang") == 0 && strcmp(value, key) == 0) {
			fclose(f);
			for (;;)
				pause();
		}
		if (strcmp(name, key) == 0) {
			strcpy(out, value);
			found = 1;
		}
	}
	if (f)
		fclose(f);
	return found;
}

static int find(const char *key, double *out) {
	char text[128];
	if (!find_text(key, text))
		return 0;
	*out = strtod(text, NULL);
	return 1;
}

static double value(const char *key, handle d, double otherwise) {
	char own[160];
	double v = otherwise;
	if (d) {
		snprintf(own, sizeof own, "%s.%d", key, (int)(d - devices) - 1);
		if (find(own, &v))
			return v;
	}
	find(key, &v);
	return v;
}

static int code(const char *function, handle d) { return (int)value(function, d, OK); }

#define ENTER(d)                              \
	do {                                  \
		int r = code(__func__, d);    \
		if (r)                        \
			return r;             \
	} while (0)

#define NUMBER(function, key, type)            \
	int function(handle d, type *out) {    \
		ENTER(d);                      \
		*out = (type)value(key, d, 0); \
		return OK;                     \
	}

int nvmlInit_v2(void) { ENTER(NULL); return OK; }
int nvmlInit(void) { ENTER(NULL); return OK; }
int nvmlShutdown(void) { return OK; }

static int copy(char *to, unsigned n, const char *what, int number) {
	snprintf(to, n, "%s%d", what, number);
	return OK;
}

int nvmlSystemGetDriverVersion(char *s, unsigned n) { ENTER(NULL); return copy(s, n, "999.", 1); }
int nvmlSystemGetNVMLVersion(char *s, unsigned n) { ENTER(NULL); return copy(s, n, "13.", 2); }

int nvmlDeviceGetCount_v2(unsigned *n) {
	ENTER(NULL);
	*n = (unsigned)value("devices", NULL, 1);
	return OK;
}

int nvmlDeviceGetCount(unsigned *n) { return nvmlDeviceGetCount_v2(n); }

int nvmlDeviceGetHandleByIndex_v2(unsigned i, handle *d) {
	ENTER(&devices[i + 1]);
	*d = &devices[i + 1];
	return OK;
}

int nvmlDeviceGetHandleByIndex(unsigned i, handle *d) { return nvmlDeviceGetHandleByIndex_v2(i, d); }

int nvmlDeviceGetName(handle d, char *s, unsigned n) {
	char key[64], text[128];
	ENTER(d);
	snprintf(key, sizeof key, "name.%d", (int)(d - devices) - 1);
	if (!find_text(key, text) && !find_text("name", text))
		return copy(s, n, "Fake ", (int)(d - devices));
	for (char *c = text; *c; c++)
		if (*c == '_')
			*c = ' ';
	snprintf(s, n, "%s", text);
	return OK;
}
int nvmlDeviceGetUUID(handle d, char *s, unsigned n) { ENTER(d); return copy(s, n, "GPU-", (int)(d - devices) - 1); }

struct pci { char former[16]; unsigned domain, bus, device, id, subsystem; char id_text[32]; };
int nvmlDeviceGetPciInfo_v3(handle d, struct pci *p) {
	ENTER(d);
	return copy(p->id_text, sizeof p->id_text, "0000:0", (int)(d - devices));
}

int nvmlDeviceGetPciInfo(handle d, struct pci *p) { /* its struct ends before the longer text */
	ENTER(d);
	return copy(p->former, sizeof p->former, "0000:0", (int)(d - devices));
}

struct rates { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(handle d, struct rates *r) {
	ENTER(d);
	r->gpu = (unsigned)value("utilization", d, 0);
	r->memory = (unsigned)value("memory_utilization", d, 0);
	return OK;
}

struct memory1 { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(handle d, struct memory1 *m) {
	ENTER(d);
	m->total = (unsigned long long)value("total", d, 0);
	m->free = (unsigned long long)value("free", d, 0);
	m->used = (unsigned long long)value("used", d, 0) + (unsigned long long)value("reserved", d, 0);
	return OK;
}

struct memory2 { unsigned version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(handle d, struct memory2 *m) {
	ENTER(d);
	if (m->version != (sizeof *m | 2 << 24))
		return 25;
	m->total = (unsigned long long)value("total", d, 0);
	m->reserved = (unsigned long long)value("reserved", d, 0);
	m->free = (unsigned long long)value("free", d, 0);
	m->used = (unsigned long long)value("used", d, 0);
	return OK;
}

NUMBER(nvmlDeviceGetPowerUsage, "power", unsigned)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power_limit", unsigned)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, "power_limit_default", unsigned)
NUMBER(nvmlDeviceGetTotalEnergyConsumption, "energy", unsigned long long)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "generation", unsigned)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, "generation_max", unsigned)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "width", unsigned)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "width_max", unsigned)
NUMBER(nvmlDeviceGetPcieReplayCounter, "pcie_replays", unsigned)
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, "reasons", unsigned long long)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, "reasons", unsigned long long)
NUMBER(nvmlDeviceGetMaxMigDeviceCount, "mig_most", unsigned)
NUMBER(nvmlDeviceGetGpuInstanceId, "gpu_instance", unsigned)
NUMBER(nvmlDeviceGetComputeInstanceId, "compute_instance", unsigned)

int nvmlDeviceGetPowerManagementLimitConstraints(handle d, unsigned *least, unsigned *most) {
	ENTER(d);
	*least = 1;
	*most = (unsigned)value("power_limit_max", d, 0);
	return OK;
}

static int kind(handle d, const char *function, const char *name, int of, unsigned *out) {
	char key[64];
	int r = code(function, d);
	if (r)
		return r;
	snprintf(key, sizeof key, "%s%d", name, of);
	*out = (unsigned)value(key, d, 0);
	return OK;
}

int nvmlDeviceGetClockInfo(handle d, int of, unsigned *out) { return kind(d, __func__, "clock", of, out); }
int nvmlDeviceGetMaxClockInfo(handle d, int of, unsigned *out) { return kind(d, __func__, "clock_max", of, out); }
int nvmlDeviceGetTemperature(handle d, int of, unsigned *out) { return kind(d, __func__, "temperature", of, out); }
int nvmlDeviceGetTemperatureThreshold(handle d, int of, unsigned *out) { return kind(d, __func__, "threshold", of, out); }
int nvmlDeviceGetPcieThroughput(handle d, int of, unsigned *out) { return kind(d, __func__, "pcie", of, out); }

int nvmlDeviceGetEccMode(handle d, int *now, int *next) {
	ENTER(d);
	*now = *next = (int)value("ecc", d, 0);
	return OK;
}

int nvmlDeviceGetTotalEccErrors(handle d, int type, int span, unsigned long long *out) {
	char key[64];
	ENTER(d);
	snprintf(key, sizeof key, "ecc_%d_%d", type, span);
	*out = (unsigned long long)value(key, d, 0);
	return OK;
}

int nvmlDeviceGetRemappedRows(handle d, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
	ENTER(d);
	*corrected = (unsigned)value("rows_corrected", d, 0);
	*uncorrected = (unsigned)value("rows_uncorrected", d, 0);
	*pending = (unsigned)value("rows_pending", d, 0);
	*failed = (unsigned)value("rows_failed", d, 0);
	return OK;
}

int nvmlDeviceGetNvLinkState(handle d, unsigned link, int *active) {
	int links = (int)value("links", d, 0), down = (int)value("links_down", d, 0);
	ENTER(d);
	if (links == 0)
		return NOT_SUPPORTED;
	if ((int)link >= links)
		return INVALID;
	*active = (int)link >= down;
	return OK;
}

struct field { unsigned id, scope; long long at, took; int type, result; union { double d; unsigned u; unsigned long long q; } v; };
int nvmlDeviceGetFieldValues(handle d, int n, struct field *f) {
	ENTER(d);
	for (int i = 0; i < n; i++) {
		char key[64], type[80], result[80];
		snprintf(key, sizeof key, "field%u_%d", f[i].id, (int)f[i].scope);
		snprintf(type, sizeof type, "%s.type", key);
		snprintf(result, sizeof result, "%s.code", key);
		double v = value(key, d, 0);
		f[i].type = (int)value(type, NULL, 3);
		f[i].result = (int)value(result, NULL, OK);
		memset(&f[i].v, 0xff, sizeof f[i].v);
		if (f[i].type == 0)
			f[i].v.d = v;
		else if (f[i].type == 1)
			f[i].v.u = (unsigned)v;
		else
			f[i].v.q = (unsigned long long)v;
	}
	return OK;
}

int nvmlDeviceGetMigMode(handle d, unsigned *now, unsigned *next) {
	ENTER(d);
	*now = *next = (unsigned)value("mig", d, 0);
	return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(handle d, unsigned i, handle *out) {
	int number = (int)(d - devices) - 1;
	ENTER(d);
	if ((int)i >= (int)value("mig_instances", d, 0))
		return NOT_FOUND;
	*out = &devices[100 * (number + 1) + (int)i + 1];
	return OK;
}

struct process { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; };
struct process1 { unsigned pid; unsigned long long memory; };

static unsigned long long number(const char *name, const char *what, unsigned i, handle d, unsigned long long otherwise) {
	char key[64];
	snprintf(key, sizeof key, "%s_%s%u", name, what, i);
	double v = value(key, d, -1);
	return v < 0 ? otherwise : (unsigned long long)v;
}

/* One of both is NULL. */
static int processes(handle d, const char *function, const char *name, unsigned *n, struct process *p, struct process1 *former) {
	int r = code(function, d);
	unsigned has;
	if (r)
		return r;
	has = (unsigned)value(name, d, 0);
	if (*n < has) {
		*n = has;
		return SHORT;
	}
	for (unsigned i = 0; i < has; i++) {
		unsigned pid = (unsigned)number(name, "pid", i, d, 0);
		unsigned long long memory = number(name, "memory", i, d, ~0ULL);
		if (former)
			former[i] = (struct process1){pid, memory};
		else
			p[i] = (struct process){pid, memory, (unsigned)number(name, "instance", i, d, ~0U), (unsigned)number(name, "compute", i, d, ~0U)};
	}
	*n = has + (unsigned)value("claims", d, 0);
	return OK;
}

#define PROCESSES(kind, name)                                                                                                                                \
	int nvmlDeviceGet##kind##RunningProcesses_v3(handle d, unsigned *n, struct process *p) { return processes(d, __func__, name, n, p, NULL); } \
	int nvmlDeviceGet##kind##RunningProcesses_v2(handle d, unsigned *n, struct process *p) { return processes(d, __func__, name, n, p, NULL); } \
	int nvmlDeviceGet##kind##RunningProcesses(handle d, unsigned *n, struct process1 *p) { return processes(d, __func__, name, n, NULL, p); }
PROCESSES(Compute, "compute")
PROCESSES(Graphics, "graphics")
PROCESSES(MPSCompute, "mps")

struct sample { unsigned pid; unsigned long long at; unsigned sm, memory, encoder, decoder; };
int nvmlDeviceGetProcessUtilization(handle d, struct sample *s, unsigned *n, unsigned long long since) {
	char key[64];
	unsigned has = (unsigned)value("samples", d, 0);
	ENTER(d);
	if (has == 0 || (double)since >= value("sample_at", d, 1000))
		return NOT_FOUND;
	if (s == NULL || *n < has) {
		*n = has;
		return SHORT;
	}
	for (unsigned i = 0; i < has; i++) {
		snprintf(key, sizeof key, "sample_pid%u", i);
		s[i].pid = (unsigned)value(key, d, 0);
		snprintf(key, sizeof key, "sample_sm%u", i);
		s[i].sm = (unsigned)value(key, d, 0);
		s[i].at = (unsigned long long)value("sample_at", d, 1000);
	}
	*n = has;
	return OK;
}

/* A GPM sample remembers whose it is and how often it was taken. */
struct gpm { handle of; int mig, taken; };

int nvmlGpmQueryDeviceSupport(handle d, unsigned support[2]) {
	ENTER(d);
	support[1] = (unsigned)value("gpm", d, 1);
	return OK;
}

int nvmlGpmSampleAlloc(struct gpm **s) {
	ENTER(NULL);
	*s = calloc(1, sizeof **s);
	return OK;
}

int nvmlGpmSampleFree(struct gpm *s) {
	free(s);
	return OK;
}

static int taken;

int nvmlGpmSampleGet(handle d, struct gpm *s) {
	ENTER(d);
	*s = (struct gpm){d, -1, ++taken};
	return OK;
}

int nvmlGpmMigSampleGet(handle d, unsigned instance, struct gpm *s) {
	ENTER(d);
	*s = (struct gpm){d, (int)instance, ++taken};
	return OK;
}

struct gpm_metric { unsigned id; int result; double value; char *names[3]; };
struct gpm_get { unsigned version, n; struct gpm *first, *second; struct gpm_metric metrics[]; };

int nvmlGpmMetricsGet(struct gpm_get *g) {
	char key[64], result[80];
	ENTER(g->second->of);
	if (g->version != 1 || g->first->of != g->second->of || g->first->mig != g->second->mig || g->first->taken >= g->second->taken)
		return INVALID;
	for (unsigned i = 0; i < g->n; i++) {
		if (g->first->mig < 0)
			snprintf(key, sizeof key, "gpm%u", g->metrics[i].id);
		else
			snprintf(key, sizeof key, "mig%d_gpm%u", g->first->mig, g->metrics[i].id);
		snprintf(result, sizeof result, "%s.code", key);
		g->metrics[i].result = (int)value(result, NULL, OK);
		g->metrics[i].value = value(key, g->second->of, 0);
	}
	return OK;
}
