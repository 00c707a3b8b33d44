// A stand-in for the CUDA driver's library, so that what the program asks of the driver can be tested where there is no GPU.
// Device memory is host memory; of the kernels it knows leaky_relu_fwd_f32 alone. It refuses calls without a current context,
// copies beyond a block, unknown streams and images that are no fat binaries, and faults late, as a GPU does.
//
// Settings, from the environment: FAKE_CUDA_VERSION (13000), FAKE_CUDA_DEVICES (1), FAKE_CUDA_CAPABILITY (90),
// FAKE_CUDA_MEMORY (bytes, 1 GiB), FAKE_CUDA_FAULT (1: kernels access memory that is not theirs), FAKE_CUDA_ARGS (1: the
// kernel expects one argument more).
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };
enum { MAX_BLOCKS = 4096, FAT_BINARY = 0xBA55ED50u };

static struct { uintptr_t start; size_t bytes; } blocks[MAX_BLOCKS];
static size_t in_use;
static int fault, context, stream, module, function, event;
/// Copies to the device that are on their way: they happen when something must see them, no earlier.
static struct { uintptr_t to; const void* from; size_t bytes; } late[MAX_BLOCKS];
static int num_late;
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
static void land(void) {
    for (int i = 0; i < num_late; i++) memcpy((void*)late[i].to, late[i].from, late[i].bytes);
    num_late = 0;
}
/// Of a call that comes after what was submitted before.
static int on_stream(void* s) {
    if (s != &stream) return INVALID_HANDLE;
    land();
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
    if (in_use) fprintf(stderr, "fake driver: %zu bytes were never freed\n", in_use);
    return SUCCESS;
}
int cuCtxSetCurrent(void* c) { return current = c, c == &context ? SUCCESS : INVALID_CONTEXT; }
int cuStreamCreate(void** s, unsigned flags) { return *s = &stream, flags == 1 ? SUCCESS : INVALID_VALUE; }
int cuStreamSynchronize(void* s) { return on_stream(s); }
int cuStreamDestroy_v2(void* s) { return on_stream(s); }

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
    if (s != &stream) return INVALID_HANDLE;
    if (state() || num_late == MAX_BLOCKS) return on_stream(s);
    if (!inside(to, bytes)) return INVALID_VALUE;
    late[num_late].to = to, late[num_late].from = from, late[num_late++].bytes = bytes;
    return SUCCESS;
}
int cuEventCreate(void** e, unsigned flags) { return *e = &event, flags == 2 ? state() : INVALID_VALUE; }
int cuEventRecord(void* e, void* s) { return e != &event || s != &stream ? INVALID_HANDLE : state(); }
int cuEventSynchronize(void* e) { return e != &event ? INVALID_HANDLE : on_stream(&stream); }
int cuEventDestroy_v2(void* e) { return e != &event ? INVALID_HANDLE : state(); }
int cuMemcpyDtoHAsync_v2(void* to, uintptr_t from, size_t bytes, void* s) {
    if (on_stream(s)) return on_stream(s);
    return inside(from, bytes) ? (memcpy(to, (void*)from, bytes), SUCCESS) : INVALID_VALUE;
}
int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void* s) {
    if (on_stream(s)) return on_stream(s);
    return inside(to, bytes) && inside(from, bytes) ? (memcpy((void*)to, (void*)from, bytes), SUCCESS) : INVALID_VALUE;
}
int cuMemsetD8Async(uintptr_t to, unsigned char value, size_t bytes, void* s) {
    if (on_stream(s)) return on_stream(s);
    return inside(to, bytes) ? (memset((void*)to, value, bytes), SUCCESS) : INVALID_VALUE;
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
int cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void* s, void** args, void** extra) {
    if (on_stream(s)) return on_stream(s);
    if (f != &function || !gx || !gy || !gz || bx * by * bz > 1024 || shared || extra) return INVALID_VALUE;
    if (setting("FAKE_CUDA_FAULT", 0)) return fault = ILLEGAL_ADDRESS, SUCCESS;
    float *y = *(float**)args[0], *x = *(float**)args[1], slope = *(float*)args[2];
    uint64_t len = *(uint64_t*)args[3];
    if (!inside((uintptr_t)y, 4 * len) || !inside((uintptr_t)x, 4 * len)) return fault = ILLEGAL_ADDRESS, SUCCESS;
    for (uint64_t i = 0; i < len; i++) y[i] = x[i] > 0 ? x[i] : slope * x[i];
    return SUCCESS;
}
