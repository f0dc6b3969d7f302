/* Trains a small ternary model on a text file, saves it, loads it and lets it write.
 *
 *     cc train_generate.c $(pkg-config --cflags --libs hybridq) && ./a.out book.txt */
#include <hybridq.h>
#include <stdio.h>
#include <stdlib.h>

static void check(hq_status status) {
    if (status == HQ_OK) return;
    fprintf(stderr, "%s\n", hq_last_error());
    exit(1);
}

static int32_t progress(const hq_progress *event, void *user_data) {
    double *first = user_data;
    if (event->kind == HQ_PROGRESS_STEP && (event->step == 1 || event->step % 20 == 0))
        printf("step %llu: loss %.3f\n", (unsigned long long)event->step, event->report->loss);
    if (event->kind == HQ_PROGRESS_STEP && event->step == 1) *first = event->report->loss;
    return 0; /* 1 would stop the run */
}

static int32_t print(const char *piece, size_t bytes, void *user_data) {
    *(size_t *)user_data += bytes;
    return fwrite(piece, 1, bytes, stdout) != bytes;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: train_generate TEXT_FILE\n");
        return 2;
    }
    FILE *model_file = fopen("model.json", "w");
    if (model_file == NULL) return 1;
    fputs("{\"model_type\": \"bitnet\", \"hidden_size\": 64, \"intermediate_size\": 128, \"num_hidden_layers\": 2,"
          " \"num_attention_heads\": 2, \"vocab_size\": 256, \"max_position_embeddings\": 64, \"hidden_act\": \"silu\"}\n",
          model_file);
    fclose(model_file);
    char config[4096];
    snprintf(config, sizeof config,
             "{\"data\": \"%s\", \"model\": \"model.json\", \"seq_length\": 64, \"batch_size\": 4, \"max_steps\": 60,"
             " \"base_learning_rate\": 0.01, \"eval_windows\": 8, \"seed\": 1}",
             argv[1]);

    hq_context *context = NULL;
    check(hq_context_new(NULL, &context));
    hq_trainer *trainer = NULL;
    check(hq_trainer_new(context, config, &trainer));
    double first = 0.0;
    check(hq_trainer_on_progress(trainer, progress, &first));
    hq_run_summary summary = {0};
    summary.struct_size = sizeof summary;
    check(hq_trainer_run(trainer, &summary));
    printf("%llu steps, held-out loss %.3f nats per byte\n", (unsigned long long)summary.steps, summary.validation_loss);
    check(hq_trainer_save_model(trainer, "model"));
    hq_trainer_free(trainer);

    hq_model *model = NULL;
    check(hq_model_load(context, "model", &model));
    hq_generate_options options = {0};
    options.struct_size = sizeof options;
    options.tokens = 60;
    options.temperature = 0.8f;
    options.seed = 3;
    size_t written = 0;
    check(hq_model_generate(model, context, "the ", &options, print, &written));
    puts("");
    hq_model_free(model);
    hq_context_free(context);
    return written > 0 && summary.validation_loss < first - 0.5 ? 0 : 1;
}
