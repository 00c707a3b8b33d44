// A stand-in for the CUDA driver's library, so that what the program asks of the driver can be tested where there is no GPU.
// Device memory is host memory; of the kernels it knows leaky_relu_fwd_f32 alone. It refuses calls without a current context,
// copies beyond a block, unknown streams and images that are no fat binaries, and faults late, as a GPU does. Streams do their
// work as late as they may; the nodes of a graph run in the order least like that of the calls.
//
// Settings, from the environment: FAKE_CUDA_VERSION (13000), FAKE_CUDA_DEVICES (1), FAKE_CUDA_CAPABILITY (90),
// FAKE_CUDA_MEMORY (bytes, 1 GiB), FAKE_CUDA_FAULT (1: kernels access memory that is not theirs), FAKE_CUDA_ARGS (1: the
// kernel expects one argument more), FAKE_CUDA_EAGER (1, 2: the first, the second stream does its work as early as it may),
// FAKE_CUDA_GRAPHS (0: there are none).
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700,
       NOT_SUPPORTED = 801 };
enum { MAX_BLOCKS = 4096, MAX_NODES = 256, MAX_AFTER = 16, FAT_BINARY = 0xBA55ED50u };

/// Work on a stream: done when something must see it, no earlier, or as early as it may (FAKE_CUDA_EAGER).
enum { COPY, CLEAR, KERNEL, GRAPH, RECORD, WAIT };
struct work {
    int what;
    uintptr_t to, from;
    size_t bytes;
    float slope;
    struct exec* exec;
    struct event* event;
    unsigned long until;
};
struct stream { struct work queue[MAX_BLOCKS]; int first, last; };
/// An event knows its stream and how often it was recorded there, and how many of those happened.
struct event { struct stream* on; unsigned long asked, happened; };
struct node { struct work work; int after[MAX_AFTER], num_after, done; };
struct graph { struct node nodes[MAX_NODES]; int count; };
/// A graph that can be launched, how many launches are under way, and its work as each launch found it.
struct exec { struct graph graph; };

static struct { uintptr_t start; size_t bytes; } blocks[MAX_BLOCKS];
static size_t in_use;
static int fault, context, module, function, handles, num_graphs, num_changes;
static struct stream streams[2];
static int open_streams[2];
static _Thread_local void* current;

static long setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}
static size_t memory(void) { return (size_t)setting("FAKE_CUDA_MEMORY", 1l << 30); }
static int state(void) { return current != &context ? INVALID_CONTEXT : fault; }
static int inside(uintptr_t p, size_t bytes) {
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (blocks[i].start && p >= blocks[i].start && p + bytes <= blocks[i].start + blocks[i].bytes) return 1;
    return 0;
}
static void perform(const struct work* w) {
    if (!inside(w->to, w->bytes) || (w->what == KERNEL && (setting("FAKE_CUDA_FAULT", 0) || !inside(w->from, w->bytes)))) {
        fault = ILLEGAL_ADDRESS;
        return;
    }
    if (w->what == COPY) memcpy((void*)w->to, (void*)w->from, w->bytes);
    if (w->what == CLEAR) memset((void*)w->to, 0, w->bytes);
    if (w->what == KERNEL) {
        float *y = (float*)w->to, *x = (float*)w->from;
        for (size_t i = 0; i < w->bytes / 4; i++) y[i] = x[i] > 0 ? x[i] : w->slope * x[i];
    }
}
/// Nodes in the order of the latest that waits for nothing: branches that must not, show.
static void perform_graph(struct exec* e) {
    struct node* nodes = e->graph.nodes;
    for (int i = 0; i < e->graph.count; i++) nodes[i].done = 0;
    for (int left = e->graph.count; left; left--)
        for (int i = e->graph.count - 1; i >= 0; i--) {
            int ready = !nodes[i].done;
            for (int k = 0; k < nodes[i].num_after; k++) ready = ready && nodes[nodes[i].after[k]].done;
            if (!ready) continue;
            perform(&nodes[i].work);
            nodes[i].done = 1;
            break;
        }
}
static void step(struct stream* s);
static void catch_up(const struct event* e, unsigned long until) {
    while (e->happened < until) step(e->on);
}
/// The next piece of work of a stream.
static void step(struct stream* s) {
    struct work w = s->queue[s->first++ % MAX_BLOCKS];
    if (w.what == WAIT) catch_up(w.event, w.until);
    else if (w.what == RECORD) w.event->happened = w.until;
    else if (w.what == GRAPH) perform_graph(w.exec), free(w.exec);
    else perform(&w);
}
static void drain(struct stream* s) {
    while (s->first < s->last) step(s);
}
static int known(const void* s) { return s == &streams[0] || s == &streams[1]; }
static int submit(void* to, struct work w) {
    struct stream* s = to;
    if (!known(s)) return INVALID_HANDLE;
    if (state()) return state();
    if (s->last - s->first == MAX_BLOCKS) drain(s);
    s->queue[s->last++ % MAX_BLOCKS] = w;
    // The eager one of both, by its number.
    if (setting("FAKE_CUDA_EAGER", 0) == 1 + (s - streams)) drain(s);
    return SUCCESS;
}
/// Of a call that waits for what was submitted before.
static int on_stream(void* s) {
    if (!known(s)) return INVALID_HANDLE;
    drain(s);
    return state();
}

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : setting("FAKE_CUDA_DEVICES", 1) ? SUCCESS : NO_DEVICE; }
int cuDriverGetVersion(int* version) { return *version = (int)setting("FAKE_CUDA_VERSION", 13000), SUCCESS; }
int cuGetErrorName(int error, const char** text) {
    *text = error == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR";
    return SUCCESS;
}
int cuGetErrorString(int error, const char** text) {
    static char buffer[32];
    snprintf(buffer, sizeof buffer, "number %d", error);
    return *text = buffer, SUCCESS;
}

int cuDeviceGetCount(int* count) { return *count = (int)setting("FAKE_CUDA_DEVICES", 1), SUCCESS; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, SUCCESS; }
int cuDeviceGetName(char* name, int len, int device) { return snprintf(name, len, "Fake %d", device), SUCCESS; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { return (void)device, *bytes = memory(), SUCCESS; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    int capability = (int)setting("FAKE_CUDA_CAPABILITY", 90);
    (void)device;
    switch (attribute) {
    case 16: *value = 132; return SUCCESS;
    case 75: *value = capability / 10; return SUCCESS;
    case 76: *value = capability % 10; return SUCCESS;
    case 97: *value = 227 << 10; return SUCCESS;
    default: return INVALID_VALUE;
    }
}

int cuDevicePrimaryCtxRetain(void** c, int device) { return (void)device, *c = &context, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    if (in_use || handles) fprintf(stderr, "fake driver: %zu bytes, %d handles were never freed\n", in_use, handles);
    return SUCCESS;
}
int cuCtxSetCurrent(void* c) { return current = c, c == &context ? SUCCESS : INVALID_CONTEXT; }
int cuStreamCreate(void** s, unsigned flags) {
    int number = open_streams[0];
    if (flags != 1 || open_streams[number]) return INVALID_VALUE;
    return open_streams[number] = 1, *s = &streams[number], state();
}
int cuStreamSynchronize(void* s) { return on_stream(s); }
int cuStreamDestroy_v2(void* s) {
    if (known(s)) open_streams[(struct stream*)s - streams] = 0;
    return on_stream(s);
}

int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    return *total = memory(), *free_bytes = memory() - in_use, state();
}
int cuMemAlloc_v2(uintptr_t* p, size_t bytes) {
    if (state()) return state();
    if (in_use + bytes > memory()) return OUT_OF_MEMORY;
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (!blocks[i].start) {
            blocks[i].start = *p = (uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
            blocks[i].bytes = bytes;
            in_use += bytes;
            memset((void*)*p, 0xff, bytes);
            return SUCCESS;
        }
    return OUT_OF_MEMORY;
}
int cuMemFree_v2(uintptr_t p) {
    drain(&streams[0]), drain(&streams[1]);
    if (state()) return state();
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (p && blocks[i].start == p) {
            free((void*)p);
            in_use -= blocks[i].bytes;
            blocks[i].start = 0;
            return SUCCESS;
        }
    return INVALID_VALUE;
}
int cuMemHostAlloc(void** p, size_t bytes, unsigned flags) { return (void)flags, *p = malloc(bytes), state(); }
int cuMemFreeHost(void* p) { return free(p), state(); }
int cuMemcpyHtoDAsync_v2(uintptr_t to, const void* from, size_t bytes, void* s) {
    if (!inside(to, bytes)) return INVALID_VALUE;
    return submit(s, (struct work){.what = COPY, .to = to, .from = (uintptr_t)from, .bytes = bytes});
}
int cuEventCreate(void** e, unsigned flags) {
    *e = calloc(1, sizeof(struct event));
    handles++;
    return flags == 2 ? state() : INVALID_VALUE;
}
int cuEventRecord(void* handle, void* s) {
    struct event* e = handle;
    if (e->on && e->on != s) catch_up(e, e->asked);
    e->on = s;
    return submit(s, (struct work){.what = RECORD, .event = e, .until = ++e->asked});
}
int cuEventSynchronize(void* handle) { return catch_up(handle, ((struct event*)handle)->asked), state(); }
int cuEventDestroy_v2(void* e) { return free(e), handles--, state(); }
int cuStreamWaitEvent(void* s, void* handle, unsigned flags) {
    struct event* e = handle;
    return flags ? INVALID_VALUE : submit(s, (struct work){.what = WAIT, .event = e, .until = e->asked});
}
int cuMemcpyDtoHAsync_v2(void* to, uintptr_t from, size_t bytes, void* s) {
    if (on_stream(s)) return on_stream(s);
    return inside(from, bytes) ? (memcpy(to, (void*)from, bytes), SUCCESS) : INVALID_VALUE;
}
int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void* s) {
    if (!inside(to, bytes) || !inside(from, bytes)) return INVALID_VALUE;
    return submit(s, (struct work){.what = COPY, .to = to, .from = from, .bytes = bytes});
}
int cuMemsetD8Async(uintptr_t to, unsigned char value, size_t bytes, void* s) {
    if (value || !inside(to, bytes)) return INVALID_VALUE;
    return submit(s, (struct work){.what = CLEAR, .to = to, .bytes = bytes});
}

int cuModuleLoadData(void** m, const void* image) {
    if ((uintptr_t)image % 8 || *(const uint32_t*)image != FAT_BINARY) return INVALID_IMAGE;
    return *m = &module, state();
}
int cuModuleUnload(void* m) { return m == &module ? state() : INVALID_HANDLE; }
int cuModuleGetFunction(void** f, void* m, const char* name) {
    if (m != &module) return INVALID_HANDLE;
    return *f = &function, strcmp(name, "leaky_relu_fwd_f32") ? NOT_FOUND : state();
}
int cuFuncGetAttribute(int* value, int attribute, void* f) {
    return *value = 0, attribute == 1 && f == &function ? state() : INVALID_VALUE;
}
int cuFuncSetAttribute(void* f, int attribute, int value) {
    return (void)value, attribute == 8 && f == &function ? state() : INVALID_VALUE;
}
int cuFuncGetParamInfo(void* f, size_t index, size_t* offset, size_t* size) {
    static const size_t sizes[] = {8, 8, 4, 8, 8};
    if (f != &function || index >= 4 + (size_t)setting("FAKE_CUDA_ARGS", 0)) return INVALID_VALUE;
    return *offset = 8 * index, *size = sizes[index], SUCCESS;
}
static struct work leaky_relu(void** args) {
    return (struct work){.what = KERNEL, .to = *(uintptr_t*)args[0], .from = *(uintptr_t*)args[1],
                         .slope = *(float*)args[2], .bytes = 4 * *(uint64_t*)args[3]};
}
static int refused(void* f, const unsigned* grid, const unsigned* block, unsigned shared, void** extra) {
    return f != &function || !grid[0] || !grid[1] || !grid[2] || block[0] * block[1] * block[2] > 1024 || shared || extra;
}
int cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void* s, void** args, void** extra) {
    if (refused(f, (unsigned[]){gx, gy, gz}, (unsigned[]){bx, by, bz}, shared, extra)) return INVALID_VALUE;
    return submit(s, leaky_relu(args));
}

struct kernel_params { void* f; unsigned grid[3], block[3], shared; void **args, **extra; void *kernel, *context; };
struct copy_params {
    size_t at[4]; int type; void* host; uintptr_t device; void *array, *reserved; size_t pitch, height;
};
struct copy3d { struct copy_params from, to; size_t width, height, depth; };
struct memset_params { uintptr_t to; size_t pitch; unsigned value, element; size_t width, height; };
enum { DEVICE_MEMORY = 2 };

static int kernel_work(struct work* w, const struct kernel_params* p) {
    if (refused(p->f, p->grid, p->block, p->shared, p->extra) || p->kernel || p->context) return INVALID_VALUE;
    return *w = leaky_relu(p->args), SUCCESS;
}
static int copy_work(struct work* w, const struct copy3d* p, void* c) {
    if (c != &context || p->from.type != DEVICE_MEMORY || p->to.type != DEVICE_MEMORY || p->height != 1 || p->depth != 1 ||
        p->from.pitch < p->width || p->to.pitch < p->width || !inside(p->from.device, p->width) ||
        !inside(p->to.device, p->width))
        return INVALID_VALUE;
    return *w = (struct work){.what = COPY, .to = p->to.device, .from = p->from.device, .bytes = p->width}, SUCCESS;
}
static int memset_work(struct work* w, const struct memset_params* p, void* c) {
    if (c != &context || p->value || p->element != 1 || p->height != 1 || !inside(p->to, p->width)) return INVALID_VALUE;
    return *w = (struct work){.what = CLEAR, .to = p->to, .bytes = p->width}, SUCCESS;
}
int cuGraphCreate(void** g, unsigned flags) {
    if (flags || setting("FAKE_CUDA_GRAPHS", 1) == 0) return NOT_SUPPORTED;
    num_graphs++;
    return *g = calloc(1, sizeof(struct graph)), handles++, state();
}
int cuGraphDestroy(void* g) { return free(g), handles--, SUCCESS; }
/// Handles of nodes are their numbers, from 1.
static int add(void** handle, struct graph* g, void* const* after, size_t count, struct work w) {
    if (g->count == MAX_NODES || count > MAX_AFTER) return OUT_OF_MEMORY;
    struct node* n = &g->nodes[g->count++];
    n->work = w;
    for (size_t i = 0; i < count; i++) n->after[n->num_after++] = (int)(intptr_t)after[i] - 1;
    return *handle = (void*)(intptr_t)g->count, state();
}
int cuGraphAddKernelNode_v2(void** n, void* g, void* const* after, size_t count, const struct kernel_params* p) {
    struct work w;
    int error = kernel_work(&w, p);
    return error ? error : add(n, g, after, count, w);
}
int cuGraphAddMemcpyNode(void** n, void* g, void* const* after, size_t count, const struct copy3d* p, void* c) {
    struct work w;
    int error = copy_work(&w, p, c);
    return error ? error : add(n, g, after, count, w);
}
int cuGraphAddMemsetNode(void** n, void* g, void* const* after, size_t count, const struct memset_params* p, void* c) {
    struct work w;
    int error = memset_work(&w, p, c);
    return error ? error : add(n, g, after, count, w);
}
int cuGraphInstantiateWithFlags(void** e, void* g, unsigned long long flags) {
    struct exec* exec = calloc(1, sizeof *exec);
    exec->graph = *(struct graph*)g;
    return *e = exec, handles++, flags ? INVALID_VALUE : state();
}
int cuGraphExecDestroy(void* e) { return free(e), handles--, SUCCESS; }
static int change(struct exec* e, void* node, int error, struct work w) {
    struct work* old = &e->graph.nodes[(intptr_t)node - 1].work;
    long refused = setting("FAKE_CUDA_REFUSED", 0);
    num_changes++;
    if (error || old->what != w.what || refused < 0 || num_changes == refused) return INVALID_VALUE;
    return *old = w, state();
}
int cuGraphExecKernelNodeSetParams_v2(void* e, void* node, const struct kernel_params* p) {
    struct work w = {0};
    int error = kernel_work(&w, p);
    return change(e, node, error, w);
}
int cuGraphExecMemcpyNodeSetParams(void* e, void* node, const struct copy3d* p, void* c) {
    struct work w = {0};
    int error = copy_work(&w, p, c);
    return change(e, node, error, w);
}
int cuGraphExecMemsetNodeSetParams(void* e, void* node, const struct memset_params* p, void* c) {
    struct work w = {0};
    int error = memset_work(&w, p, c);
    return change(e, node, error, w);
}
/// A launch keeps the work as it is now: what is changed later is of later launches.
int cuGraphLaunch(void* e, void* s) {
    struct exec* launched = malloc(sizeof *launched);
    *launched = *(struct exec*)e;
    return submit(s, (struct work){.what = GRAPH, .exec = launched});
}

/// For the tests: how many graphs were made.
int fake_cuda_graphs(void) { return num_graphs; }
