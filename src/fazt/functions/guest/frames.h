/* Bytes, text and frames between the host and QuickJS values. Part of shim.c. */

/* Take what is pending: `size` bytes and a NUL behind them, on the runtime's (limited) heap. NULL when that is full. */
static uint8_t *take_pending(uint32_t size)
{
    uint8_t *bytes = js_malloc_rt(rt, (size_t)size + 1);
    if (!bytes)
        return NULL;
    if (size <= sizeof(mailbox.inbox))
        memcpy(bytes, mailbox.inbox, size);
    else
        host_take(bytes);
    bytes[size] = 0;
    return bytes;
}

/* Length of the well-formed UTF-8 sequence at p, or 0; *skip is then what one U+FFFD stands for (WHATWG Encoding,
   "UTF-8 decoder": the longest prefix of a sequence that could still have become valid). */
static size_t utf8_step(const uint8_t *p, const uint8_t *end, size_t *skip)
{
    uint8_t low = 0x80, high = 0xbf;
    size_t more, i;
    if (*p < 0x80)
        return 1;
    *skip = 1;
    if (*p >= 0xc2 && *p <= 0xdf) {
        more = 1;
    } else if (*p >= 0xe0 && *p <= 0xef) {
        more = 2;
        if (*p == 0xe0) low = 0xa0;
        if (*p == 0xed) high = 0x9f;
    } else if (*p >= 0xf0 && *p <= 0xf4) {
        more = 3;
        if (*p == 0xf0) low = 0x90;
        if (*p == 0xf4) high = 0x8f;
    } else {
        return 0;
    }
    for (i = 1; i <= more; i++) {
        if (p + i >= end || p[i] < low || p[i] > high)
            return 0;
        low = 0x80;
        high = 0xbf;
        *skip = i + 1;
    }
    return more + 1;
}

/* A string of UTF-8 bytes, every malformed part replaced by U+FFFD; an exception instead when `fatal`. */
static JSValue from_utf8(JSContext *c, const uint8_t *p, size_t size, int fatal)
{
    const uint8_t *end = p + size, *q = p;
    size_t skip = 1, bad = 0;
    uint8_t *copy, *to;
    JSValue text;
    while (q < end) {
        size_t n = utf8_step(q, end, &skip);
        bad += !n;
        q += n ? n : skip;
    }
    if (!bad)
        return JS_NewStringLen(c, (const char *)p, size);
    if (fatal)
        return JS_ThrowTypeError(c, "the encoded data was not valid utf-8");
    to = copy = js_malloc(c, size + 2 * bad); /* one bad byte becomes three at most */
    if (!copy)
        return JS_EXCEPTION;
    for (q = p; q < end;) {
        size_t n = utf8_step(q, end, &skip);
        if (n) {
            memcpy(to, q, n);
            to += n;
            q += n;
        } else {
            memcpy(to, "\xef\xbf\xbd", 3);
            to += 3;
            q += skip;
        }
    }
    text = JS_NewStringLen(c, (const char *)copy, to - copy);
    js_free(c, copy);
    return text;
}

/* Copy a string as UTF-8 to `to`; QuickJS writes a lone surrogate as ED A0..BF xx, which is as long as U+FFFD. */
static void put_utf8(uint8_t *to, const char *text, size_t size)
{
    size_t i;
    memcpy(to, text, size);
    for (i = 0; i + 2 < size; i++)
        if (to[i] == 0xed && to[i + 1] >= 0xa0)
            memcpy(to + i, "\xef\xbf\xbd", 3);
}

/* The bytes that an ArrayBuffer or a typed array shows; NULL, without an exception, for anything else. */
static const uint8_t *view_of(JSContext *c, JSValueConst value, size_t *size)
{
    const uint8_t *bytes;
    size_t offset = 0, length = 0, whole = 0;
    JSValue buffer;
    if (JS_IsArrayBuffer(value)) {
        bytes = JS_GetArrayBuffer(c, size, value);
        if (!bytes)
            JS_FreeValue(c, JS_GetException(c));
        return bytes;
    }
    if (JS_GetTypedArrayType(value) < 0)
        return NULL;
    buffer = JS_GetTypedArrayBuffer(c, value, &offset, &length, NULL);
    if (JS_IsException(buffer)) {
        JS_FreeValue(c, JS_GetException(c));
        return NULL;
    }
    bytes = JS_GetArrayBuffer(c, &whole, buffer);
    JS_FreeValue(c, buffer); /* the array keeps it alive */
    if (!bytes || offset > whole || length > whole - offset) {
        if (!bytes)
            JS_FreeValue(c, JS_GetException(c));
        return NULL;
    }
    *size = length;
    return bytes + offset;
}

/* Make a frame of a header string and a body that is a string, bytes or nothing. NULL with an exception. */
static uint8_t *make_frame(JSContext *c, JSValueConst header, JSValueConst body, uint32_t *size)
{
    size_t nhead, nbody = 0;
    const char *head = JS_ToCStringLen(c, &nhead, header), *text = NULL;
    const uint8_t *bytes = NULL;
    uint8_t *frame = NULL;
    uint32_t length;
    if (!head)
        return NULL;
    if (JS_IsString(body)) {
        text = JS_ToCStringLen(c, &nbody, body);
        if (!text)
            goto out;
    } else {
        bytes = view_of(c, body, &nbody);
        if (!bytes)
            nbody = 0;
    }
    frame = js_malloc(c, 4 + nhead + nbody);
    if (!frame)
        goto out;
    length = (uint32_t)nhead;
    memcpy(frame, &length, 4);
    put_utf8(frame + 4, head, nhead);
    if (text)
        put_utf8(frame + 4 + nhead, text, nbody);
    else if (nbody)
        memcpy(frame + 4 + nhead, bytes, nbody);
    *size = (uint32_t)(4 + nhead + nbody);
out:
    JS_FreeCString(c, head);
    if (text)
        JS_FreeCString(c, text);
    return frame;
}

/* Split a frame that the host made: its header as a string, its raw bytes as an ArrayBuffer. 0, or -1 and an exception. */
static int open_frame(JSContext *c, const uint8_t *frame, uint32_t size, JSValue *header, JSValue *body)
{
    uint32_t length;
    *header = *body = JS_UNDEFINED;
    if (size < 4)
        goto broken;
    memcpy(&length, frame, 4);
    if (length > size - 4)
        goto broken;
    *header = from_utf8(c, frame + 4, length, 0);
    if (JS_IsException(*header))
        return -1;
    *body = JS_NewArrayBufferCopy(c, frame + 4 + length, size - 4 - length);
    if (JS_IsException(*body)) {
        JS_FreeValue(c, *header);
        return -1;
    }
    return 0;
broken:
    JS_ThrowInternalError(c, "broken frame from the host");
    return -1;
}
