/* janus_edge.h - draw images and ask about them with a bundle of janus-edge, from C99.
 *
 *     je_session *session = NULL;
 *     if (je_session_open("bundles/tiny-janus", NULL, &session)) return fprintf(stderr, "%s\n", je_error());
 *
 *     je_request request;
 *     je_request_init(&request, sizeof request);
 *     request.prompt = "three red circles";
 *
 *     je_job *job = NULL;
 *     if (je_job_start(session, &request, &job)) return fprintf(stderr, "%s\n", je_error());
 *     je_event event = {.size = sizeof event};
 *     je_status status;
 *     while ((status = je_job_next(job, &event)) == JE_OK)
 *         if (event.kind == JE_EVENT_IMAGE) je_image_save("out.png", &event.image, NULL, 0);
 *     if (status < 0) fprintf(stderr, "%s\n", je_error());
 *     je_job_free(job);
 *     je_session_close(session);
 *
 * Text is UTF-8 and ends with a zero. Strings, arrays and structs that are passed in are read during the
 * call and may go afterwards. Nothing here throws; nothing prints. Functions that return a je_status leave
 * the reason of a negative one with je_error(): one line that says where, what, and what to do.
 *
 * ONNX Runtime 1.21 or later is opened at run time, never linked (docs/c-api.md).
 */
#ifndef JANUS_EDGE_H
#define JANUS_EDGE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define JE_API __attribute__((visibility("default")))
#else
#define JE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Of this header. It grows only when a program has to be changed; structs that grow at their end keep it. */
#define JE_ABI 1

/* A bundle and the engines of its components, opened when first needed. Immutable: any number of threads may
 * use one at once. */
typedef struct je_session je_session;

/* A request that runs. For one thread at a time, but for je_job_cancel and je_job_free. */
typedef struct je_job je_job;

typedef int32_t je_status;
enum {
    JE_OK = 0,
    JE_DONE = 1,        /* je_job_next: there is nothing more */
    JE_CANCELLED = 2,   /* je_job_next: it was cancelled */
    JE_E_ARGUMENT = -1, /* a value outside its range, a NULL, an empty or too long prompt */
    JE_E_BUNDLE = -2,   /* a bundle that is missing, damaged or of another version */
    JE_E_RUNTIME = -3,  /* ONNX Runtime is missing, too old, or failed */
    JE_E_MEMORY = -4,   /* no memory left, or no more files may be open */
    JE_E_ABI = -5,      /* a struct that was not initialised, or sets fields this library does not know, as reserved */
    JE_E_DEVICE = -6,   /* a device that is missing, or cannot run the bundle */
    JE_E_IMAGE = -7,    /* a file that is no image, or too large a one */
    JE_E_OUTPUT = -8    /* a file that cannot be written */
};

/* The last error of the calling thread, never NULL; "" before the first. Valid until the thread's next call.
 * je_image_load also leaves a note there. */
JE_API const char *je_error(void);

/* JE_ABI and the version ("0.1.0") of the library that was found at run time. */
JE_API uint32_t je_abi(void);
JE_API const char *je_version(void);

/* ---- Images ------------------------------------------------------------------------------------------ */

/* Rows from the top, `stride` bytes apart; channels: 1 grey, 3 RGB, or 4 RGB with alpha, which is laid over
 * white. 8 bits each. This struct does not grow. */
typedef struct {
    const uint8_t *pixels;
    int32_t width, height, stride, channels;
} je_image;

/* Read a PNG or JPEG file as RGB: upright, transparency over white, of 16 bits the upper 8. Where the end of the file is
 * missing, but half of the image is there, it is read, the rest is grey, and je_error() says so; else je_error() is
 * "" after JE_OK. `image` must be given back to je_image_free. Any thread. JE_E_IMAGE, JE_E_ARGUMENT, JE_E_MEMORY. */
JE_API je_status je_image_load(const char *path, je_image *image);

/* Frees what je_image_load gave, and clears `image`. No other image may be passed. */
JE_API void je_image_free(je_image *image);

/* Write a PNG file; it appears whole or not at all. A link stays and its target is replaced; a named pipe or a
 * character device is written through (a pipe waits up to 10 s for a program that reads it). A name with another
 * image's suffix, as .jpg, is refused. texts: keys and values in turn, num_texts pairs, for the file's text chunks;
 * may be NULL. Any thread. JE_E_OUTPUT, JE_E_ARGUMENT, JE_E_MEMORY. */
JE_API je_status je_image_save(const char *path, const je_image *image, const char *const *texts,
                               size_t num_texts);

/* ---- Sessions ------------------------------------------------------------------------------------------- */

enum { JE_LOG_INFO = 0, JE_LOG_WARNING = 1, JE_LOG_ERROR = 2 };

/* A line of what a session does: which component it opened, how long that took, what ONNX Runtime says. Called
 * on any thread that uses the session, and on ONNX Runtime's; several at once. It must not call je_*. */
typedef void (*je_log)(void *context, int32_t level, const char *line);

typedef struct {
    uint32_t size;           /* set by je_options_init */
    int32_t num_threads;     /* of the engines; 0 (default): as many as there are processors */
    const char *onnxruntime; /* file of the library; NULL (default): beside libjanus_edge, else the system's */
    const char *device;      /* "cpu", "cuda:1", ... (docs/c-api.md); NULL: "auto" */
    int32_t check_all;       /* hash every file; 0 (default): those that are new or were touched */
    int32_t reserved;        /* 0 */
    je_log log;              /* NULL (default): nothing is logged */
    void *log_context;       /* passed on to `log` */
} je_options;

/* Set all fields to their defaults. size: sizeof the struct, as the program was built with it. */
JE_API void je_options_init(je_options *options, uint32_t size);

/* Open the folder of a bundle: read its manifest, compare hashes (files that were found right before and were not
 * touched are remembered in JANUS_EDGE_HOME, else ~/.cache/janus-edge), load ONNX Runtime. options: NULL for
 * the defaults; `log` and its context must live as long as the session and its jobs. *session is NULL on failure.
 * Any thread. JE_E_ARGUMENT, JE_E_BUNDLE, JE_E_RUNTIME, JE_E_MEMORY, JE_E_ABI, JE_E_DEVICE.
 *
 * A process has one ONNX Runtime: the first that was opened. So that it sends no usage data, the variable
 * ORT_DISABLE_TELEMETRY is set to 1 in the process's environment before it loads, unless the variable is set already. */
JE_API je_status je_session_open(const char *bundle, const je_options *options, je_session **session);

/* Give the session up. Jobs that still run keep what they need. NULL is allowed. Not while another thread calls a
 * function with this very pointer. */
JE_API void je_session_close(je_session *session);

/* What a session is. Strings live as long as the session. */
typedef struct {
    uint32_t size;           /* set it to sizeof the struct */
    int32_t image_size;      /* pixels a side, of images drawn and seen */
    int32_t num_codes;       /* of a drawn image; 0: the model draws by a flow */
    int32_t max_length;      /* tokens of a prompt and what follows it */
    int32_t uses_cpu_kernels;       /* the decoder runs in code of our own, not by ONNX Runtime (docs/cpu-kernels.md) */
    int32_t num_components;  /* files that can be opened */
    const char *name;        /* "tiny-janus" */
    const char *family;      /* "janus" or "janusflow" */
    const char *sha256;      /* of the manifest, and so of everything */
    const char *device;      /* "cpu", "cuda:1", ... */
    const char *onnxruntime; /* version, "1.31.1" */
} je_info;

/* Any thread. JE_E_ARGUMENT, JE_E_ABI. */
JE_API je_status je_session_info(const je_session *session, je_info *info);

/* Ids of a text by the bundle's tokenizer; nothing is put around it. Up to `capacity` of them are written to
 * `ids` (which may be NULL when that is 0), their number to `count`. Any thread. JE_E_ARGUMENT, JE_E_MEMORY. */
JE_API je_status je_tokenize(const je_session *session, const char *text, uint32_t *ids, size_t capacity,
                             size_t *count);

/* ---- Requests ------------------------------------------------------------------------------------------ */

enum { JE_TASK_DRAW = 0, JE_TASK_ASK = 1 };

/* What was asked and answered before, about so many of the request's images. This struct does not grow. */
typedef struct {
    const char *message;
    const char *answer;
    size_t num_images;
} je_turn;

/* Settings that are "unset" (NAN, -1, NULL) are the bundle's own; those of another task or family are refused. */
typedef struct {
    uint32_t size;          /* set by je_request_init */
    int32_t task;           /* JE_TASK_DRAW (default) or JE_TASK_ASK */
    const char *prompt;     /* what to draw, or the question */
    uint64_t seed;          /* 0 (default) to 2^63 - 1; the i-th image of a prompt has seed + i */
    double temperature;     /* of codes and answers; 0 takes the likeliest; unset: of answers 0 */
    double top_p;           /* likewise; above 0 to 1 (off); unset: of answers 1 */

    /* to draw */
    const char *const *more_prompts; /* drawn in the same batch, after `prompt` */
    size_t num_more_prompts;         /* 0 (default) */
    int32_t num_images;            /* of each prompt; 1 (default) to 1024 */
    int32_t previews;                /* not 0: preview events after each row of codes, or each step */
    int32_t reference;               /* not 0: unset settings are the papers', not the bundle's */
    int32_t top_k;                   /* of codes; 0: off */
    double guidance_scale;           /* 1: off */
    int32_t num_steps;               /* of a flow */
    int32_t reserved;                /* 0 */
    const char *solver;              /* of a flow: "euler", "ab2", "heun" */
    double shift;                    /* of a flow: above 1 more steps near noise */
    double guidance_start;           /* of a flow: the part of t, 0 to 1, in which guidance is on */
    double guidance_end;

    /* to ask */
    const je_image *input_images; /* of all turns, in order */
    size_t num_input_images;      /* 0 (default) */
    const je_turn *history; /* what was asked and answered before */
    size_t num_history;     /* 0 (default) */
    int32_t max_tokens;     /* of the answer; 128 (default) */
    int32_t reserved_too;   /* 0 */
} je_request;

/* Set all fields to their defaults. size: sizeof the struct, as the program was built with it. */
JE_API void je_request_init(je_request *request, uint32_t size);

/* ---- Jobs ---------------------------------------------------------------------------------------------- */

enum {
    JE_EVENT_PROGRESS = 0, /* `done` of `total` codes or steps of all images, as `unit` says */
    JE_EVENT_TEXT = 1,     /* the next piece of an answer, of whole UTF-8 characters */
    JE_EVENT_PREVIEW = 2,  /* image `index` after `done` codes or steps of its own */
    JE_EVENT_IMAGE = 3     /* a finished image */
};

/* Pointers are valid until the next call with the job; what does not belong to the kind is 0. */
typedef struct {
    uint32_t size; /* set it to sizeof the struct, once, before the first je_job_next */
    int32_t kind;
    double elapsed_ms; /* since the job was started; set with JE_DONE as well */
    int64_t done, total;
    const char *unit; /* "codes" or "steps" */
    const char *text; /* text_length bytes, and a zero */
    size_t text_length;
    int64_t index; /* of the image among all of the request, from 0 */
    uint64_t seed; /* of a finished image, */
    je_image image;
    const int32_t *codes; /* what it was decoded from: num_codes codes, or */
    size_t num_codes;
    const float *latent; /* num_latent numbers (channels, rows, columns) */
    size_t num_latent;
} je_event;

/* Check a request and start it; the work is done by je_job_next. The job keeps the session's parts alive, also after
 * je_session_close. *job is NULL on failure. Any thread. JE_E_ARGUMENT, JE_E_BUNDLE (its tokenizer does not read the
 * model's own tokens), JE_E_MEMORY, JE_E_ABI. */
JE_API je_status je_job_start(je_session *session, const je_request *request, je_job **job);

/* Work until there is something to tell: JE_OK and an event; JE_DONE: the request is finished; JE_CANCELLED; or an
 * error, with which the job ends, too. Afterwards the same again. An event that is NULL (JE_E_ARGUMENT) or whose size
 * is wrong (JE_E_ABI) is refused before any work, and the job goes on; likewise a call while another thread is in one
 * with the same job (JE_E_ARGUMENT). JE_E_BUNDLE, JE_E_RUNTIME, JE_E_MEMORY, JE_E_DEVICE. */
JE_API je_status je_job_next(je_job *job, je_event *event);

/* Ask a job to end; its je_job_next returns JE_CANCELLED soon. Any thread, as often as wanted, until je_job_free.
 * NULL is allowed. */
JE_API void je_job_cancel(je_job *job);

/* End and free a job, finished or not. NULL is allowed. While another thread is in je_job_next with it, the job is
 * cancelled, that call returns JE_CANCELLED and frees it; no other call with it may follow or be under way. */
JE_API void je_job_free(je_job *job);

#ifdef __cplusplus
}
#endif

#endif
