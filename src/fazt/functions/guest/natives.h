/* What the prelude gets: the functions behind `native`. Part of shim.c. */

static JSValue throw_stop(JSContext *c)
{
    /* Nobody reads this error's stack, and Error.prepareStackTrace is code of the app. */
    JS_FreeValue(c, c->error_stack_trace_limit);
    JS_FreeValue(c, c->error_prepare_stack);
    c->error_stack_trace_limit = js_int32(0);
    c->error_prepare_stack = JS_UNDEFINED;
    JS_ThrowInternalError(c, "the response has been given");
    JS_SetUncatchableError(c, c->rt->current_exception);
    return JS_EXCEPTION;
}

/* call(header, body) -> [header, ArrayBuffer] */
static JSValue native_call(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    uint32_t size;
    int32_t reply;
    uint8_t *frame;
    JSValue header, body, pair;
    if (stopping)
        return throw_stop(c);
    if (baking)
        return JS_ThrowInternalError(c, "calls to the host are refused while an app is being baked");
    frame = make_frame(c, argv[0], argv[1], &size);
    if (!frame)
        return JS_EXCEPTION;
    reply = host_call(frame, size);
    js_free(c, frame);
    if (reply < 0)
        return JS_ThrowInternalError(c, "the host refused the call");
    frame = take_pending((uint32_t)reply);
    if (!frame)
        return JS_ThrowOutOfMemory(c);
    if (open_frame(c, frame, (uint32_t)reply, &header, &body) < 0) {
        js_free(c, frame);
        return JS_EXCEPTION;
    }
    js_free(c, frame);
    pair = JS_NewArray(c);
    if (JS_IsException(pair) || JS_DefinePropertyValueUint32(c, pair, 0, header, JS_PROP_C_W_E) < 0 ||
        JS_DefinePropertyValueUint32(c, pair, 1, body, JS_PROP_C_W_E) < 0)
        return JS_EXCEPTION;
    return pair;
}

/* post(header) */
static JSValue native_post(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    uint32_t size;
    uint8_t *frame;
    if (baking)
        return JS_UNDEFINED;
    frame = make_frame(c, argv[0], JS_UNDEFINED, &size);
    if (!frame)
        return JS_EXCEPTION;
    host_post(frame, size);
    js_free(c, frame);
    return JS_UNDEFINED;
}

static void set_result(const uint8_t *frame, uint32_t size)
{
    mailbox.result = frame;
    mailbox.result_size = size;
}

/* result(header, body) */
static JSValue native_result(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    uint32_t size;
    uint8_t *frame = make_frame(c, argv[0], argv[1], &size);
    if (!frame)
        return JS_EXCEPTION;
    set_result(frame, size); /* stays allocated: there is one, at the end */
    return JS_UNDEFINED;
}

/* stop(): from here on nothing of the app runs, not even its catch and finally blocks */
static JSValue native_stop(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    stopping = 1;
    return throw_stop(c);
}

/* decode(bytes, start, length, fatal) -> string */
static JSValue native_decode(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t size;
    uint32_t start, length;
    const uint8_t *bytes = view_of(c, argv[0], &size);
    if (!bytes)
        return JS_NewString(c, "");
    if (JS_ToUint32(c, &start, argv[1]) || JS_ToUint32(c, &length, argv[2]))
        return JS_EXCEPTION;
    if (start > size)
        start = (uint32_t)size;
    if (length > size - start)
        length = (uint32_t)(size - start);
    return from_utf8(c, bytes + start, length, JS_ToBool(c, argv[3]) > 0);
}

/* encode(string) -> Uint8Array */
static JSValue native_encode(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t size;
    uint8_t *copy;
    JSValue out;
    const char *text = JS_ToCStringLen(c, &size, argv[0]);
    if (!text)
        return JS_EXCEPTION;
    copy = js_malloc(c, size ? size : 1);
    if (!copy) {
        JS_FreeCString(c, text);
        return JS_EXCEPTION;
    }
    put_utf8(copy, text, size);
    JS_FreeCString(c, text);
    out = JS_NewUint8ArrayCopy(c, copy, size);
    js_free(c, copy);
    return out;
}

/* bytes(value, start, length) -> Uint8Array of its own, or undefined when the value holds no bytes */
static JSValue native_bytes(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t size;
    uint32_t start = 0, length = UINT32_MAX;
    const uint8_t *bytes = view_of(c, argv[0], &size);
    if (!bytes)
        return JS_UNDEFINED;
    if (!JS_IsUndefined(argv[1]) && (JS_ToUint32(c, &start, argv[1]) || JS_ToUint32(c, &length, argv[2])))
        return JS_EXCEPTION;
    if (start > size)
        start = (uint32_t)size;
    if (length > size - start)
        length = (uint32_t)(size - start);
    return JS_NewUint8ArrayCopy(c, bytes + start, length);
}

/* size(bytes) -> number, or -1 when the value holds no bytes */
static JSValue native_size(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t size;
    return view_of(c, argv[0], &size) ? JS_NewInt64(c, (int64_t)size) : JS_NewInt32(c, -1);
}

/* fill(typed array): random bytes in place */
static JSValue native_fill(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t size;
    uint8_t *bytes = (uint8_t *)view_of(c, argv[0], &size);
    if (bytes && size)
        host_random(bytes, (uint32_t)size);
    return JS_UNDEFINED;
}

static JSValue native_is_error(JSContext *c, JSValueConst self, int argc, JSValueConst *argv)
{
    return JS_NewBool(c, JS_IsError(argv[0]));
}

static const JSCFunctionListEntry natives[] = {
    JS_CFUNC_DEF("call", 2, native_call),     JS_CFUNC_DEF("post", 1, native_post),
    JS_CFUNC_DEF("result", 2, native_result), JS_CFUNC_DEF("stop", 0, native_stop),
    JS_CFUNC_DEF("decode", 4, native_decode), JS_CFUNC_DEF("encode", 1, native_encode),
    JS_CFUNC_DEF("bytes", 3, native_bytes),   JS_CFUNC_DEF("size", 1, native_size),
    JS_CFUNC_DEF("fill", 1, native_fill),     JS_CFUNC_DEF("isError", 1, native_is_error),
};
