/* janus_edge.h - draw images and ask about images with a bundle of janus-edge, from C99.
 *
 *     je_session *session = NULL;
 *     if (je_session_open("bundles/tiny-things", NULL, &session)) return fprintf(stderr, "%s\n", je_error());
 *
 *     je_request request;
 *     je_request_init(&request, sizeof request);
 *     request.prompt = "a red apple";
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
 * Strings are UTF-8 and end with a zero byte. A function reads the strings, arrays and structs that it is given during
 * the call; the caller may free them afterwards. No function throws or prints. A function that returns a je_status
 * reports the reason of a negative one by je_error(): one line that says where, what, and what to do. "Errors" lists
 * the negative statuses that a function returns.
 *
 * ONNX Runtime 1.21 or later is opened at run time. It is never linked (docs/c-api.md).
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

/* The version of the binary interface. It is raised only when programs must be changed. A struct that gets new fields
 * at its end does not raise it. */
#define JE_ABI 1

/* A session: an open bundle and the engines of its components. An engine opens when it is first needed. Any
 * number of threads may use it at once. Made by je_session_open, given back to je_session_close. */
typedef struct je_session je_session;

/* A job: a request that was started. One thread at a time may use it, except for je_job_cancel and je_job_free. Made by
 * je_job_start, given back to je_job_free. */
typedef struct je_job je_job;

/* What a function returns: JE_OK, another of these that is not negative, or a negative error. */
typedef int32_t je_status;
enum {
  JE_OK = 0,
  JE_DONE = 1,        /* je_job_next: the request is finished */
  JE_CANCELLED = 2,   /* je_job_next: the job was cancelled */
  JE_E_ARGUMENT = -1, /* a value is out of range, a pointer is NULL, or a prompt is empty or too long */
  JE_E_BUNDLE = -2,   /* the bundle is missing, damaged or of another version */
  JE_E_RUNTIME = -3,  /* ONNX Runtime is missing, too old, or failed */
  JE_E_MEMORY = -4,   /* no memory is left, or the process may not open more files */
  JE_E_ABI = -5,      /* a struct was not initialized, or sets fields that this library does not know */
  JE_E_DEVICE = -6,   /* the device is missing, or cannot run the bundle */
  JE_E_IMAGE = -7,    /* the file is not an image, or the image is too large */
  JE_E_OUTPUT = -8    /* the file cannot be written */
};

/* Return the last error of the calling thread. Never NULL; "" before the first error. The string is valid until the
 * thread's next call. je_image_load also leaves a note there. */
JE_API const char* je_error(void);

/* Return JE_ABI of the library that was found at run time. Any thread. */
JE_API uint32_t je_abi(void);

/* Return the version of the library that was found at run time, like "0.1.0". Any thread. */
JE_API const char* je_version(void);

/* ---- Images ------------------------------------------------------------------------------------------ */

/* An image of 8 bits per channel. This struct does not grow.
 *
 * pixels: rows from the top. width, height: in pixels. stride: bytes from the start of a row to the start of the next.
 * channels: 1 grey, 3 RGB, 4 RGB with alpha, which is composited over white. */
typedef struct {
  const uint8_t* pixels;
  int32_t width, height, stride, channels;
} je_image;

/* Read a PNG or JPEG file as RGB. The image is turned upright, transparency is composited over white, and of 16-bit
 * channels the upper 8 bits are kept. If the end of the file is missing but half of the image is there, the rest is
 * grey and je_error() says so. Otherwise je_error() is "" after JE_OK.
 *
 * path: the file. image: the result; the caller gives it back to je_image_free.
 * Any thread. Errors: JE_E_IMAGE, JE_E_ARGUMENT, JE_E_MEMORY. */
JE_API je_status je_image_load(const char* path, je_image* image);

/* Free the pixels of an image that je_image_load read, and clear the struct. Pass no other image. NULL is allowed. */
JE_API void je_image_free(je_image* image);

/* Write an image as a PNG file. The file appears whole or not at all. A symbolic link stays and its target is replaced.
 * A named pipe or a character device is written through; a pipe waits up to 10 s for a program that reads it.
 *
 * path: the file. The suffix of another image format, like .jpg, is refused.
 * texts: num_texts pairs of a key and a value for the file's text chunks; may be NULL if num_texts is 0. A key has 1 to 79
 * printable characters of ASCII, and no space at its ends or beside another.
 * Any thread. Errors: JE_E_OUTPUT, JE_E_ARGUMENT, JE_E_MEMORY. */
JE_API je_status je_image_save(const char* path, const je_image* image, const char* const* texts, size_t num_texts);

/* ---- Sessions ------------------------------------------------------------------------------------------- */

/* Levels of log lines. */
enum { JE_LOG_INFO = 0, JE_LOG_WARNING = 1, JE_LOG_ERROR = 2 };

/* A function that receives one line of a session's log: which component was opened, how long that took, what ONNX
 * Runtime says. context: je_options.log_context. level: JE_LOG_*. line: valid during the call. It is called on every
 * thread that uses the session and on threads of ONNX Runtime, on several at once. It must not call any je_ function.
 */
typedef void (*je_log)(void* context, int32_t level, const char* line);

/* How a session is opened. */
typedef struct {
  uint32_t size;           /* set by je_options_init */
  int32_t num_threads;     /* threads of the engines; 0 (default): one per processor */
  const char* onnxruntime; /* file of ONNX Runtime; NULL (default): beside libjanus_edge, else the system's */
  const char* device;      /* "cpu", "cuda:1", ... (docs/c-api.md); NULL (default): "auto" */
  int32_t check_all;       /* not 0: hash every file; 0 (default): hash files that are new or were changed */
  int32_t context_mb; /* room for what is kept of requests for later ones (docs/decoding.md); 256 (default), in MB */
  je_log log;         /* receives log lines; NULL (default): nothing is logged */
  void* log_context;  /* passed on to `log` */
} je_options;

/* Set all fields to their defaults. size: sizeof the struct as the program was built with it, in bytes. */
JE_API void je_options_init(je_options* options, uint32_t size);

/* Open a bundle: read its manifest, check the hashes of its files and load ONNX Runtime. Files whose hashes were right
 * before and that have not changed since are remembered in JANUS_EDGE_HOME, or in ~/.cache/janus-edge if it is not set.
 *
 * A process has one ONNX Runtime: the first that was opened. To keep it from sending usage data, the environment
 * variable ORT_DISABLE_TELEMETRY of the process is set to 1 before it loads, unless the variable is already set.
 *
 * bundle: the folder. options: NULL for the defaults; `log` and `log_context` must outlive the session and its jobs.
 * session: set to the new session, or to NULL on an error. The caller gives it back to je_session_close.
 * Any thread. Errors: JE_E_ARGUMENT, JE_E_BUNDLE, JE_E_RUNTIME, JE_E_MEMORY, JE_E_ABI, JE_E_DEVICE. */
JE_API je_status je_session_open(const char* bundle, const je_options* options, je_session** session);

/* Close a session. Jobs that still run keep what they need. NULL is allowed. No other thread may be in a function with
 * this pointer. */
JE_API void je_session_close(je_session* session);

/* Facts about a session. Strings live as long as the session. */
typedef struct {
  uint32_t size;            /* set it to sizeof the struct */
  int32_t image_size;       /* side of images, drawn and asked about, in pixels */
  int32_t num_codes;        /* codes of a drawn image; 0: the model draws by a flow */
  int32_t max_length;       /* positions of a prompt and what follows it, in tokens */
  int32_t uses_cpu_kernels; /* 1: the CPU kernels run the decoder; 0: ONNX Runtime does (docs/cpu-kernels.md) */
  int32_t num_components;   /* components of the bundle */
  const char* name;         /* "tiny-things" */
  const char* family;       /* "janus" or "janusflow" */
  const char* sha256;       /* hash of the manifest, which holds the hashes of all other files */
  const char* device;       /* "cpu", "cuda:1", ... */
  const char* onnxruntime;  /* version of ONNX Runtime: "1.31.1" */
} je_info;

/* Fill in `info`, whose field `size` must be set. Any thread. Errors: JE_E_ARGUMENT, JE_E_ABI. */
JE_API je_status je_session_info(const je_session* session, je_info* info);

/* Convert a text to token ids by the bundle's tokenizer. No tokens are added around it.
 *
 * ids: the first `capacity` ids are written here; may be NULL if capacity is 0. count: set to the number of all ids.
 * Any thread. Errors: JE_E_ARGUMENT, JE_E_MEMORY. */
JE_API je_status je_tokenize(const je_session* session, const char* text, uint32_t* ids, size_t capacity,
                             size_t* count);

/* ---- Requests ------------------------------------------------------------------------------------------ */

/* What a request asks for. */
enum { JE_TASK_DRAW = 0, JE_TASK_ASK = 1 };

/* An earlier question and its answer. num_images: how many of the request's images it is about. This struct does not
 * grow. */
typedef struct {
  const char* message;
  const char* answer;
  size_t num_images;
} je_turn;

/* A request to draw images or to answer a question. Settings that are unset (NAN, -1 or NULL) take the bundle's
 * defaults. A setting of the other task, or of another model family, is refused. */
typedef struct {
  uint32_t size;      /* set by je_request_init */
  int32_t task;       /* JE_TASK_DRAW (default) or JE_TASK_ASK */
  const char* prompt; /* what to draw, or the question */
  uint64_t seed;      /* 0 (default) to 2^63 - 1; the i-th image of a prompt, counted from 0, has seed + i */
  double temperature; /* 0 to 100, for codes and answers; 0: the likeliest; unset (default): 0 for answers */
  double top_p;       /* above 0 to 1 (off), for codes and answers; unset (default): 1 for answers */

  /* to draw */
  const char* const* more_prompts; /* prompts that are drawn in the same batch, after `prompt` */
  size_t num_more_prompts;         /* 0 (default) */
  int32_t num_images;              /* images per prompt; 1 (default) to 1024 */
  int32_t previews;                /* not 0: a preview event after each row of codes (Janus) or step (JanusFlow) */
  int32_t reference;               /* not 0: unset settings take the values of the papers, not of the bundle */
  int32_t top_k;                   /* keeps so many codes; 0: off; -1 (default): unset */
  double guidance_scale;           /* 1: off */
  int32_t num_steps;               /* steps of a flow; -1 (default): unset */
  int32_t parallel;   /* for codes and answers: positions that a pass computes, 1 to 64; 0 (default): what is fastest */
  const char* solver; /* solver of a flow: "euler", "ab2" or "heun" */
  double shift;       /* of a flow; above 1: more steps near the noise */
  double guidance_start; /* of a flow; guidance is on from this t, 0 to 1, ... */
  double guidance_end;   /* ... to this t; of codes: the part that is guided; below 1 is approximate */

  /* for both: what came before */
  const je_image* input_images; /* images of all turns, in order; a question is about those that remain */
  size_t num_input_images;      /* 0 (default) */
  const je_turn* history;       /* earlier questions and answers */
  size_t num_history;           /* 0 (default) */

  /* to ask */
  int32_t max_tokens; /* most tokens of the answer; 128 (default) */

  /* to draw with Janus, approximately */
  int32_t window; /* codes of a row that are there when the next row begins; 0 (default): raster order, exactly */
} je_request;

/* Set all fields to their defaults. size: sizeof the struct as the program was built with it, in bytes. */
JE_API void je_request_init(je_request* request, uint32_t size);

/* ---- Jobs ---------------------------------------------------------------------------------------------- */

/* Kinds of events. */
enum {
  JE_EVENT_PROGRESS = 0, /* `done` of `total` codes or steps of all images; `unit` says which */
  JE_EVENT_TEXT = 1,     /* the next piece of an answer: whole UTF-8 characters */
  JE_EVENT_PREVIEW = 2,  /* a preview of image `index`, after `done` of its own codes or steps */
  JE_EVENT_IMAGE = 3     /* a finished image */
};

/* An event of a job. Pointers are valid until the next call with the job. Fields that the kind does not use are 0. */
typedef struct {
  uint32_t size;        /* set it to sizeof the struct, once, before the first je_job_next */
  int32_t kind;         /* JE_EVENT_* */
  double elapsed_ms;    /* time since the job was started, in ms; also set with JE_DONE */
  int64_t done, total;  /* codes or steps */
  const char* unit;     /* "codes" or "steps" */
  const char* text;     /* text_length bytes and a zero byte */
  size_t text_length;   /* in bytes */
  int64_t index;        /* of the image among all images of the request, from 0 */
  uint64_t seed;        /* of a finished image */
  je_image image;       /* a preview or a finished image, RGB */
  const int32_t* codes; /* Janus: the codes that a finished image was decoded from */
  size_t num_codes;     /* number of codes */
  const float* latent;  /* JanusFlow: the latent (channels, rows, columns) that it was decoded from */
  size_t num_latent;    /* number of floats */
  int32_t approximate;  /* 1: a finished image by an approximation (window, guidance_end); 0: exact */
} je_event;

/* Check a request and start it. The work is done by je_job_next. The job keeps the session's parts alive, also after
 * je_session_close.
 *
 * job: set to the new job, or to NULL on an error. The caller gives it back to je_job_free.
 * Any thread. Errors: JE_E_ARGUMENT, JE_E_BUNDLE (the tokenizer does not know the model's own tokens), JE_E_MEMORY,
 * JE_E_ABI. */
JE_API je_status je_job_start(je_session* session, const je_request* request, je_job** job);

/* Work until there is an event.
 *
 * Return JE_OK and fill in `event`; JE_DONE if the request is finished; JE_CANCELLED if the job was cancelled; or an
 * error, which ends the job. After JE_DONE, JE_CANCELLED or such an error, further calls return the same status.
 *
 * A call is refused before any work, and the job goes on, if `event` is NULL (JE_E_ARGUMENT), if its size is wrong
 * (JE_E_ABI), or if another thread is in je_job_next with the same job (JE_E_ARGUMENT).
 * One thread at a time. Errors that end the job: JE_E_BUNDLE, JE_E_RUNTIME, JE_E_MEMORY, JE_E_DEVICE. */
JE_API je_status je_job_next(je_job* job, je_event* event);

/* Ask a job to end; its je_job_next soon returns JE_CANCELLED. Any thread, any number of times, until je_job_free is
 * called. NULL is allowed. */
JE_API void je_job_cancel(je_job* job);

/* End and free a job, finished or not. NULL is allowed. If another thread is in je_job_next with the job, the job is
 * cancelled, and that call returns JE_CANCELLED and frees it. No other call with the job may follow or be under way. */
JE_API void je_job_free(je_job* job);

#ifdef __cplusplus
}
#endif

#endif
