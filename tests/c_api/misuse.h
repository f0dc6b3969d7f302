/* What the generated program of tests/c_misuse.rs stands on: live objects, buffers, right structs, and what must hold after
 * every call. */
#include <hybridq.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 16, BYTES = 1 << 16, STRUCT_BYTES = 8192 };

static hq_context *live_hq_context, *fresh_hq_context;
static hq_kmeans *live_hq_kmeans, *fresh_hq_kmeans;
static hq_data_clustering *live_hq_data_clustering, *fresh_hq_data_clustering;
static hq_parameter_clustering *live_hq_parameter_clustering, *fresh_hq_parameter_clustering;
static hq_parameters *live_hq_parameters, *fresh_hq_parameters;
static hq_optimizer *live_hq_optimizer, *fresh_hq_optimizer;
static hq_auxiliary_network *live_hq_auxiliary_network, *fresh_hq_auxiliary_network;
static hq_sampler *live_hq_sampler, *fresh_hq_sampler;
static hq_model *live_hq_model, *fresh_hq_model;
static hq_decoder *live_hq_decoder, *fresh_hq_decoder;
static hq_model *live_encoder, *live_seq2seq;
static hq_decoder *live_seq2seq_decoder;
static hq_trainer *live_hq_trainer, *fresh_hq_trainer;
/* There may be no device to make them on: NULL, and every call that takes one fails. */
static hq_stream *live_hq_stream, *fresh_hq_stream;
static hq_buffer *live_hq_buffer, *fresh_hq_buffer;

static const char model_json[] =
    "{\"model_type\": \"bitnet\", \"hidden_size\": 32, \"intermediate_size\": 32, \"num_hidden_layers\": 1,"
    " \"num_attention_heads\": 1, \"vocab_size\": 256, \"max_position_embeddings\": 16, \"hidden_act\": \"silu\"}";
static const char encoder_json[] =
    "{\"model_type\": \"bert\", \"hidden_size\": 16, \"intermediate_size\": 16, \"num_hidden_layers\": 1,"
    " \"num_attention_heads\": 1, \"vocab_size\": 256, \"max_position_embeddings\": 16,"
    " \"architectures\": [\"BertForTokenClassification\"]}";
static const char seq2seq_json[] =
    "{\"model_type\": \"bart\", \"vocab_size\": 256, \"d_model\": 16, \"encoder_layers\": 1, \"encoder_ffn_dim\": 16,"
    " \"encoder_attention_heads\": 1, \"decoder_layers\": 1, \"decoder_ffn_dim\": 16, \"decoder_attention_heads\": 1,"
    " \"max_position_embeddings\": 16, \"decoder_start_token_id\": 1, \"bos_token_id\": 1, \"eos_token_id\": 2}";
static const char *const some_labels[2] = {"no", "yes"};
/* A file with one number. */
static const char one_tensor[] = "\x3a\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}    \0\0\0\0";
static const char trainer_json[] =
    "{\"data\": \"text.txt\", \"model\": \"model.json\", \"seq_length\": 8, \"batch_size\": 1, \"max_steps\": 1,"
    " \"eval_windows\": 1, \"data_clusters\": 2}";
static const char batches_json[] =
    "{\"model\": \"model.json\", \"seq_length\": 8, \"batch_size\": 1, \"max_steps\": 1}";
static char network_json[1 << 16];

static int calls, failures, defects, right_failed, right_functions = -1;

/* A call's status is no defect of the library, and a failure has a message that begins with the function's name. */
static inline void after(const char *function, hq_status status, int must_fail, const char *what) {
    calls++;
    failures += status != HQ_OK;
    int is_right = strcmp(what, "as it should be") == 0;
    int fine = status != HQ_PANIC && (!must_fail || status != HQ_OK);
    if (status != HQ_OK) fine = fine && strncmp(hq_last_error(), function, strlen(function)) == 0;
    if (is_right && status != HQ_OK && right_functions < 0) right_failed++, printf("%s alone fails: %s\n", function, hq_last_error());
    if (!fine) {
        defects++;
        printf("DEFECT: %s with %s: %s, %s\n", function, what, hq_status_name(status), hq_last_error());
    }
}

/* Buffer number `slot`, afresh: zeros, or numbers of a half. */
static inline void *buffer(int slot, int is_float) {
    static _Alignas(64) unsigned char memory[SLOTS][BYTES];
    memset(memory[slot], 0, BYTES);
    float half = 0.5f;
    if (is_float)
        for (int at = 0; at < BYTES; at += (int)sizeof half) memcpy(memory[slot] + at, &half, sizeof half);
    return memory[slot];
}

static float array_memory[1024];
static float *const arrays[4] = {array_memory, array_memory, array_memory, array_memory};

static inline int32_t a_hq_text_callback(const char *piece, size_t bytes, void *user_data) {
    static unsigned pieces;
    (void)piece, (void)bytes, (void)user_data;
    return ++pieces % 32 == 0; /* a wrong number of tokens may be a large one */
}

/* Calibration takes half a minute. */
static inline int32_t stop_at_once(const char *name, size_t bytes, void *user_data) {
    (void)user_data;
    return name != NULL && bytes > 0;
}

static inline int32_t a_hq_metrics_callback(const hq_backend_metrics *metrics, void *user_data) {
    (void)user_data;
    return metrics == NULL;
}

static inline int32_t a_hq_progress_callback(const hq_progress *progress, void *user_data) {
    (void)user_data;
    return progress == NULL;
}

static inline int32_t a_hq_batch_callback(const hq_batch_buffers *batch, void *user_data) {
    (void)user_data;
    for (size_t i = 0; i < batch->count * batch->length; i++) batch->tokens[i] = 7;
    for (size_t i = 0; i < batch->targets_len; i++) batch->targets[i] = 7;
    return 0;
}

static inline int32_t a_hq_attention_callback(size_t layer, size_t heads, size_t queries, size_t keys,
                                              const float *weights, void *user_data) {
    (void)layer, (void)user_data;
    return heads * queries * keys == 0 || weights == NULL;
}

static inline int32_t a_hq_loss_callback(hq_parameters *parameters, const uint64_t *examples, size_t count,
                                         float gradient_scale, double *loss, void *user_data) {
    (void)parameters, (void)examples, (void)count, (void)gradient_scale, (void)user_data;
    *loss = 1.0;
    return 0;
}

/* A struct in memory of its own size, so that reading past it shows; freed when its place is taken again. */
static inline void *keep(const void *from, size_t bytes, size_t room) {
    static void *kept[64];
    static int next;
    free(kept[next]);
    unsigned char *copy = calloc(1, room);
    if (copy == NULL) abort();
    memcpy(copy, from, bytes);
    kept[next] = copy;
    next = (next + 1) % 64;
    return copy;
}

#define RIGHT(type, ...)                                          \
    static inline type *right_##type(void) {                      \
        type value;                                               \
        memset(&value, 0, sizeof value);                          \
        value.struct_size = sizeof value;                         \
        __VA_ARGS__;                                              \
        return keep(&value, sizeof value, sizeof value);          \
    }

static const size_t a_shape[2] = {2, 2};

RIGHT(hq_context_options, value.threads = 1)
RIGHT(hq_backend, (void)0)
RIGHT(hq_quantizer, (void)0)
RIGHT(hq_gradient_quantizer, (void)0)
RIGHT(hq_kmeans_options, value.clusters = 1)
RIGHT(hq_kmeans_info, (void)0)
RIGHT(hq_cluster_info, (void)0)
RIGHT(hq_parameter_spec, value.dimensions = 2; value.shape = a_shape; value.name = "w"; value.precision = HQ_PRECISION_F32)
RIGHT(hq_quantize_report, (void)0)
RIGHT(hq_training_state, value.loss = 1.0f; value.learning_rate = 0.1f)
RIGHT(hq_update_report, (void)0)
RIGHT(hq_schedule, value.fraction = 0.5f)
RIGHT(hq_auxiliary_options, (void)0)
RIGHT(hq_auxiliary_output, (void)0)
RIGHT(hq_auxiliary_feedback, (void)0)
RIGHT(hq_auxiliary_statistics, (void)0)
RIGHT(hq_generate_options, value.tokens = 2)
RIGHT(hq_model_info, (void)0)
RIGHT(hq_parameter_info, (void)0)
RIGHT(hq_evaluation, (void)0)
RIGHT(hq_step_report, (void)0)
RIGHT(hq_run_summary, (void)0)
RIGHT(hq_batch_source, value.examples = 4; value.read = a_hq_batch_callback; value.identity = "a")
static const uint32_t some_tokens[4] = {1, 2, 3, 4};
RIGHT(hq_batch, value.sequences = 2; value.tokens = some_tokens; value.tokens_len = 4; value.targets = some_tokens;
      value.targets_len = 4)
RIGHT(hq_step_options, (void)0)
RIGHT(hq_beam_options, value.tokens = 2)
RIGHT(hq_objective, value.examples = 4; value.loss = a_hq_loss_callback; value.identity = "a")

static inline void *with_size(void *right, uint32_t size) {
    uint32_t own;
    memcpy(&own, right, sizeof own);
    void *copy = keep(right, own, STRUCT_BYTES);
    memcpy(copy, &size, sizeof size);
    return copy;
}

/* As a later version would look that asks for something. */
static inline void *with_tail(void *right) {
    uint32_t own;
    memcpy(&own, right, sizeof own);
    unsigned char *copy = keep(right, own, STRUCT_BYTES);
    uint32_t size = own + 8;
    memcpy(copy, &size, sizeof size);
    copy[own + 3] = 1;
    return copy;
}

/* One field (its first four bytes) all zeros or all ones. */
static inline void *with_field(void *right, size_t offset, int byte) {
    memset((unsigned char *)right + offset, byte, byte == 0 ? sizeof(void *) : 4);
    return right;
}

/* A folder that does not exist yet. */
static inline const char *new_folder(void) {
    static char name[32];
    static int number;
    snprintf(name, sizeof name, "new-%d", number++);
    return name;
}

static inline void must(hq_status status) {
    if (status == HQ_OK) return;
    printf("setting up: %s\n", hq_last_error());
    exit(1);
}

static inline void make_live(void) {
    FILE *file = fopen("model.json", "w");
    if (file == NULL || fputs(model_json, file) < 0 || fclose(file) != 0) exit(1);
    const float points[4] = {0, 1, 5, 6};
    float *values = buffer(0, 0);
    memcpy(values, points, sizeof points);
    hq_kmeans_options *two = right_hq_kmeans_options();
    two->clusters = 2;
    size_t length;
    must(hq_context_new(right_hq_context_options(), &live_hq_context));
    must(hq_kmeans_fit(live_hq_context, two, values, 2, 2, &live_hq_kmeans));
    must(hq_data_clustering_fit(live_hq_context, values, 2, 2, 2, 0, &live_hq_data_clustering));
    must(hq_parameter_clustering_fit(live_hq_context, values, 4, 2, 1, 0, &live_hq_parameter_clustering));
    must(hq_parameters_new(right_hq_parameter_spec(), 1, 0, &live_hq_parameters));
    must(hq_optimizer_new(live_hq_parameters, NULL, &live_hq_optimizer));
    must(hq_auxiliary_new(right_hq_auxiliary_options(), &live_hq_auxiliary_network));
    must(hq_auxiliary_to_json(live_hq_auxiliary_network, network_json, sizeof network_json, &length));
    must(hq_sampler_new(NULL, &live_hq_sampler));
    must(hq_model_new(live_hq_context, model_json, 0, &live_hq_model));
    must(hq_model_save(live_hq_model, "model"));
    must(hq_decoder_new(live_hq_model, 1, 16, &live_hq_decoder));
    must(hq_model_new(live_hq_context, encoder_json, 0, &live_encoder));
    must(hq_model_new(live_hq_context, seq2seq_json, 0, &live_seq2seq));
    must(hq_decoder_new(live_seq2seq, 1, 16, &live_seq2seq_decoder));
    file = fopen("one.safetensors", "wb");
    if (file == NULL || fwrite(one_tensor, sizeof one_tensor - 1, 1, file) != 1 || fclose(file) != 0) exit(1);
    must(hq_trainer_new(live_hq_context, trainer_json, &live_hq_trainer));
}

/* The live objects still work and can be freed: no wrong call has harmed them. */
static inline int report(void) {
    double loss = 0.0;
    must(hq_trainer_evaluate(live_hq_trainer, &loss));
    hq_trainer_free(live_hq_trainer);
    hq_decoder_free(live_seq2seq_decoder);
    hq_model_free(live_seq2seq);
    hq_model_free(live_encoder);
    hq_decoder_free(live_hq_decoder);
    hq_model_free(live_hq_model);
    hq_sampler_free(live_hq_sampler);
    hq_auxiliary_free(live_hq_auxiliary_network);
    hq_optimizer_free(live_hq_optimizer);
    hq_parameters_free(live_hq_parameters);
    hq_parameter_clustering_free(live_hq_parameter_clustering);
    hq_data_clustering_free(live_hq_data_clustering);
    hq_kmeans_free(live_hq_kmeans);
    hq_context_free(live_hq_context);
    printf("%d calls, %d failed as they should, %d defects; %d functions failed with right arguments\n", calls, failures,
           defects, right_failed);
    printf("wrong calls done\n");
    return defects != 0;
}

/* Every call once, in order; then argv[1] calls drawn by the seed argv[2]. */
static inline int misuse(void (*const *all)(void), size_t count, int argc, char **argv) {
    unsigned long long sequence = argc > 1 ? strtoull(argv[1], NULL, 10) : 0, state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    make_live();
    for (size_t i = 0; i < count; i++) all[i]();
    right_functions = right_failed;
    for (unsigned long long i = 0; i < sequence; i++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        all[(size_t)(state >> 33) % count]();
    }
    return report();
}
