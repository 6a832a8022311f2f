/*
 * The guest: one QuickJS-ng runtime with one realm in a WebAssembly instance, and the few doors that lead out of it.
 *
 * Life of an instance that bakes an app:  boot, prelude, compile (once a file), seal; then its memory is the image.
 * Life of an instance that serves:        memory restored from an image, serve, thrown away.
 *
 * Every door takes and gives bytes. What the host wants to say lies in the mailbox, or is fetched with host_take when it
 * is too large for that; what the guest answers stays in its memory, the mailbox says where. A frame is a 32-bit
 * little-endian length, that much JSON, then raw bytes.
 *
 * QuickJS is included, not linked: four things have no API (the state behind Math.random, the origin of
 * performance.now, the bytes in use, and the flag that scripts/build-guest patches in for a top-level `return`).
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int fazt_top_return; /* while set, `return` is allowed outside of functions */

#include "quickjs.c"

#define IMPORT(name) __attribute__((import_module("fazt"), import_name(#name)))

/* Send a host call; the length of the reply, which is then pending, or -1 where host calls are refused. */
IMPORT(host_call) extern int32_t host_call(const uint8_t *frame, uint32_t size);
/* Send a frame that has no reply. */
IMPORT(host_post) extern void host_post(const uint8_t *frame, uint32_t size);
/* Copy what is pending to `to`. */
IMPORT(host_take) extern void host_take(uint8_t *to);
/* Fill with bytes of the host's cryptographic generator. */
IMPORT(host_random) extern void host_random(uint8_t *to, uint32_t size);

enum { KIND_MAIN, KIND_MODULE, KIND_JSON };
enum { STEP_BOOT, STEP_PRELUDE, STEP_LIMIT, STEP_COMPILE, STEP_SEAL, STEP_SERVE };

/* What the host writes before it calls `enter`, and where it reads the outcome behind it. Whatever crosses the boundary
   by itself (an export more, an argument) costs more than all of this; what is pending lies in the inbox when it fits.
   STEP_BOOT returns the address; wasm_instance.py knows the layout. */
static struct {
    const uint8_t *result;
    uint32_t result_size;
    uint32_t step;
    uint32_t args[4];
    uint8_t inbox[8192];
} mailbox;

/* What reporting an outcome may use after the app has used up its own memory. */
#define RESERVE (1024 * 1024)
/* C stack that scripts may use before a RangeError. JSON, regular expressions and the parser use more native stack than
   C stack: there wasmtime's own limit (wasm_module.NATIVE_STACK) ends the invocation. */
#define SCRIPT_STACK (256 * 1024)

static JSRuntime *rt;
static JSContext *ctx;
static size_t base_size;  /* bytes in use by the runtime and the prelude; an app's limit counts from here */
static int baking = 1;
static int stopping;      /* the response is fixed: no further statement of the app runs */
static JSValue main_code; /* compiled script of api/main.js */
static JSValue api_begin, api_finish, api_fail, api_module, api_json;

#include "frames.h"
#include "natives.h"

/* ---- promises that were rejected and that nobody has asked about -------------------------------------------------- */

static struct {
    JSValue promise, reason;
} lost[8];
static int lost_count;

static void track_rejection(JSContext *c, JSValueConst promise, JSValueConst reason, bool is_handled, void *opaque)
{
    int i;
    if (!is_handled) {
        if (lost_count < (int)countof(lost)) {
            lost[lost_count].promise = JS_DupValue(c, promise);
            lost[lost_count++].reason = JS_DupValue(c, reason);
        }
        return;
    }
    for (i = 0; i < lost_count; i++) {
        if (JS_IsStrictEqual(c, lost[i].promise, promise)) {
            JS_FreeValue(c, lost[i].promise);
            JS_FreeValue(c, lost[i].reason);
            lost[i] = lost[--lost_count];
            return;
        }
    }
}

/* ---- baking ------------------------------------------------------------------------------------------------------- */

static int interrupted(JSRuntime *r, void *opaque)
{
    return stopping;
}

/* Make the runtime. 0 or -1. */
static int boot(void)
{
    main_code = api_begin = api_finish = api_fail = api_module = api_json = JS_UNDEFINED;
    rt = JS_NewRuntime();
    if (!rt)
        return -1;
    JS_SetMaxStackSize(rt, SCRIPT_STACK);
    JS_SetGCThreshold(rt, (size_t)-1); /* baking ends with one collection */
    JS_SetInterruptHandler(rt, interrupted, NULL);
    JS_SetHostPromiseRejectionTracker(rt, track_rejection, NULL);
    ctx = JS_NewContext(rt);
    return ctx && !JS_AddIntrinsicDOMException(ctx) ? 0 : -1;
}

/* Report the pending exception of a compilation as {"name","message","stack"} and drop it. */
static int report(void)
{
    static const char *const keys[] = {"name", "message", "stack"};
    JSValue error = JS_GetException(ctx), out = JS_NewObject(ctx), text;
    int i;
    for (i = 0; i < 3 && JS_IsObject(out); i++) {
        text = JS_IsError(error) ? JS_GetPropertyStr(ctx, error, keys[i]) : JS_UNDEFINED;
        if (JS_IsException(text))
            JS_FreeValue(ctx, JS_GetException(ctx));
        else if (JS_IsString(text))
            JS_DefinePropertyValueStr(ctx, out, keys[i], text, JS_PROP_C_W_E);
    }
    text = JS_JSONStringify(ctx, out, JS_UNDEFINED, JS_UNDEFINED);
    if (JS_IsString(text))
        JS_FreeValue(ctx, native_result(ctx, JS_UNDEFINED, 2, (JSValueConst[]){text, JS_UNDEFINED}));
    JS_FreeValue(ctx, text);
    JS_FreeValue(ctx, out);
    JS_FreeValue(ctx, error);
    return -1;
}

/* Evaluate the prelude (pending, `size` bytes): a function of the natives that gives the entry points. 0 or -1. */
static int prelude(uint32_t size)
{
    uint8_t *source = take_pending(size);
    JSValue make, native, api;
    JS_UpdateStackTop(rt);
    if (!source)
        return -1;
    make = JS_Eval(ctx, (char *)source, size, "fazt", JS_EVAL_TYPE_GLOBAL);
    js_free_rt(rt, source);
    if (JS_IsException(make))
        return report();
    native = JS_NewObject(ctx);
    JS_SetPropertyFunctionList(ctx, native, natives, countof(natives));
    api = JS_Call(ctx, make, JS_UNDEFINED, 1, (JSValueConst *)&native);
    JS_FreeValue(ctx, native);
    JS_FreeValue(ctx, make);
    if (JS_IsException(api))
        return report();
    api_begin = JS_GetPropertyStr(ctx, api, "begin");
    api_finish = JS_GetPropertyStr(ctx, api, "finish");
    api_fail = JS_GetPropertyStr(ctx, api, "fail");
    api_module = JS_GetPropertyStr(ctx, api, "addModule");
    api_json = JS_GetPropertyStr(ctx, api, "addJson");
    JS_FreeValue(ctx, api);
    JS_RunGC(rt);
    base_size = rt->malloc_state.malloc_size;
    return 0;
}

static JSValue compile_module(const char *source, uint32_t size, const char *path)
{
    static const char before[] = "(function (exports, require, module, __filename, __dirname) {", after[] = "\n})";
    size_t whole = sizeof(before) - 1 + size + sizeof(after) - 1;
    char *wrapped;
    JSValue code;

    /* By itself first: a source that only balances inside the wrapper is a mistake, not a module. */
    fazt_top_return = 1;
    code = JS_Eval(ctx, source, size, path, JS_EVAL_TYPE_GLOBAL | JS_EVAL_FLAG_COMPILE_ONLY);
    fazt_top_return = 0;
    if (JS_IsException(code))
        return code;
    JS_FreeValue(ctx, code);

    wrapped = js_malloc(ctx, whole + 1);
    if (!wrapped)
        return JS_EXCEPTION;
    memcpy(wrapped, before, sizeof(before) - 1);
    memcpy(wrapped + sizeof(before) - 1, source, size);
    memcpy(wrapped + sizeof(before) - 1 + size, after, sizeof(after));
    code = JS_Eval(ctx, wrapped, whole, path, JS_EVAL_TYPE_GLOBAL);
    js_free(ctx, wrapped);
    return code;
}

/* Compile one file; pending is its path ("api/…", `npath` bytes) and its source. 0, or -1 after a report. */
static int compile(int kind, uint32_t npath, uint32_t nsource)
{
    uint8_t *bytes = take_pending(npath + nsource);
    char *path, *source;
    JSValue code, name, done;
    JS_UpdateStackTop(rt);
    path = bytes ? js_strndup(ctx, (char *)bytes, npath) : NULL;
    if (!path) {
        JS_ThrowOutOfMemory(ctx);
        return report();
    }
    source = (char *)bytes + npath;
    if (kind == KIND_MAIN) {
        fazt_top_return = 1;
        code = JS_Eval(ctx, source, nsource, path, JS_EVAL_TYPE_GLOBAL | JS_EVAL_FLAG_COMPILE_ONLY);
        fazt_top_return = 0;
        if (!JS_IsException(code)) {
            JS_FreeValue(ctx, main_code);
            main_code = code;
        }
        js_free(ctx, path);
        js_free(ctx, bytes);
        return JS_IsException(code) ? report() : 0;
    }
    code = kind == KIND_JSON ? from_utf8(ctx, (uint8_t *)source, nsource, 0) : compile_module(source, nsource, path);
    js_free(ctx, bytes);
    name = JS_NewString(ctx, path);
    js_free(ctx, path);
    if (JS_IsException(code) || JS_IsException(name))
        return report();
    done = JS_Call(ctx, kind == KIND_JSON ? api_json : api_module, JS_UNDEFINED, 2, (JSValueConst[]){name, code});
    JS_FreeValue(ctx, name);
    JS_FreeValue(ctx, code);
    if (JS_IsException(done))
        return report();
    JS_FreeValue(ctx, done);
    return 0;
}

/* Finish the image: garbage is gone, calls out are allowed from now on. */
static void seal(void)
{
    JS_UpdateStackTop(rt);
    JS_RunGC(rt);
    JS_SetMemoryLimit(rt, 0);
    set_result(NULL, 0);
    memset(mailbox.inbox, 0, sizeof(mailbox.inbox));
    baking = 0;
}

/* ---- serving ------------------------------------------------------------------------------------------------------ */

/* Say how it failed through the prelude, which knows the fields; without it when even that fails. Takes `error`. */
static void fail(JSValue error, const char *how)
{
    static uint8_t frame[256];
    static const char plain[] = "{\"error\":{\"kind\":\"memory\",\"name\":\"\",\"message\":\"out of memory\",\"stack\":\"\",\"net\":null}}";
    uint32_t length = sizeof(plain) - 1;
    JSValue text, done;
    stopping = 0;
    /* Where there was no memory for an error, null is thrown. */
    if (JS_IsNull(error) && rt->malloc_state.malloc_size + RESERVE / 4 > rt->malloc_state.malloc_limit)
        how = "memory";
    JS_SetMemoryLimit(rt, rt->malloc_state.malloc_size + RESERVE);
    text = JS_NewString(ctx, how);
    done = JS_Call(ctx, api_fail, JS_UNDEFINED, 2, (JSValueConst[]){error, text});
    if (!JS_IsException(done))
        return;
    memcpy(frame, &length, 4);
    memcpy(frame + 4, plain, length);
    set_result(frame, 4 + length);
}

/* Run jobs until the response is fixed, `promise` is settled, or none is left. 0, or -1 and an exception. */
static int pump(JSValueConst promise)
{
    JSContext *of;
    int done;
    while (!stopping) {
        if (JS_IsPromise(promise) && JS_PromiseState(ctx, promise) != JS_PROMISE_PENDING)
            return 0;
        done = JS_ExecutePendingJob(rt, &of);
        if (done == 0)
            return 0;
        if (done < 0)
            return -1;
    }
    return 0;
}

/*
 * Serve one request. Pending are 16 bytes of seed, two doubles (ms since the epoch, ms of the monotonic clock) and the
 * request frame.
 */
static void serve(uint32_t size, uint32_t memory, uint32_t max_output, uint32_t max_log_lines)
{
    uint8_t *input;
    uint64_t seed;
    double now;
    JSValue header, body, value, done;

    JS_UpdateStackTop(rt);
    JS_SetMemoryLimit(rt, base_size + memory);
    /* A collection writes to every object and so copies every page of the image: not for a short handler. */
    JS_SetGCThreshold(rt, rt->malloc_state.malloc_size + (memory / 4 < (8u << 20) ? memory / 4 : (8u << 20)));
    input = take_pending(size);
    if (!input) {
        JS_ThrowOutOfMemory(ctx);
        fail(JS_GetException(ctx), "");
        return;
    }
    memcpy(&seed, input, 8);
    memcpy(&ctx->random_state, input + 8, 8);
    ctx->random_state ^= seed * 0x9e3779b97f4a7c15u;
    if (!ctx->random_state)
        ctx->random_state = 1; /* the generator's one forbidden state */
    memcpy(&now, input + 16, 8);
    memcpy(&ctx->time_origin, input + 24, 8);

    if (open_frame(ctx, input + 32, size - 32, &header, &body) < 0) {
        fail(JS_GetException(ctx), "request");
        return;
    }
    js_free_rt(rt, input);
    done = JS_Call(ctx, api_begin, JS_UNDEFINED, 5,
                   (JSValueConst[]){header, body, JS_NewInt64(ctx, max_output), JS_NewInt64(ctx, max_log_lines),
                                    js_float64(now)});
    JS_FreeValue(ctx, header);
    JS_FreeValue(ctx, body);
    if (JS_IsException(done)) {
        fail(JS_GetException(ctx), "request");
        return;
    }

    value = JS_EvalFunction(ctx, main_code);
    main_code = JS_UNDEFINED;
    if (stopping || JS_IsException(value)) {
        if (!stopping) {
            fail(JS_GetException(ctx), "");
            return;
        }
        value = JS_UNDEFINED;
    } else if (pump(value) < 0 && !stopping) {
        fail(JS_GetException(ctx), "");
        return;
    }
    if (JS_HasException(ctx))
        JS_FreeValue(ctx, JS_GetException(ctx));
    if (!stopping && JS_IsPromise(value)) {
        switch (JS_PromiseState(ctx, value)) {
        case JS_PROMISE_PENDING:
            fail(JS_UNDEFINED, "pending");
            return;
        case JS_PROMISE_REJECTED:
            fail(JS_PromiseResult(ctx, value), "");
            return;
        default:
            value = JS_PromiseResult(ctx, value);
        }
    } else if (!stopping && lost_count) {
        fail(lost[0].reason, ""); /* an async function that failed behind the handler's back */
        return;
    }
    stopping = 0;
    JS_SetMemoryLimit(rt, base_size + memory + RESERVE);
    done = JS_Call(ctx, api_finish, JS_UNDEFINED, 1, (JSValueConst *)&value);
    if (JS_IsException(done))
        fail(JS_GetException(ctx), "");
}

/* ---- the one way in ----------------------------------------------------------------------------------------------- */

extern void __wasm_call_ctors(void);

__attribute__((export_name("enter"))) int enter(void)
{
    const uint32_t *args = mailbox.args;
    switch (mailbox.step) {
    case STEP_BOOT: /* the mailbox of a new instance is empty */
        __wasm_call_ctors();
        return boot() ? 0 : (int)(uintptr_t)&mailbox;
    case STEP_PRELUDE:
        return prelude(args[0]);
    case STEP_LIMIT: /* the app may use so many bytes beyond what runtime and prelude use */
        JS_SetMemoryLimit(rt, base_size + args[0]);
        return 0;
    case STEP_COMPILE:
        return compile((int)args[0], args[1], args[2]);
    case STEP_SEAL:
        seal();
        return 0;
    case STEP_SERVE:
        serve(args[0], args[1], args[2], args[3]);
        return 0;
    }
    return -1;
}
