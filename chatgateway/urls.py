"""The public routes. Each is served with and without a trailing slash: a redirect would turn a POST into a GET."""

from django.urls import re_path

from chatgateway import (
    conversation_views,
    manage_views,
    metrics_view,
    response_views,
    text_completion_views,
    views,
)

urlpatterns = [
    re_path(r"^v1/models/?$", views.ModelsView.as_view()),
    re_path(r"^v1/models/(?P<model_id>.+?)/?$", views.ModelView.as_view()),
    re_path(r"^v1/chat/completions/?$", views.ChatCompletionsView.as_view()),
    re_path(r"^v1/chat/completions/(?P<completion_id>[^/]+)/cancel/?$", views.CancelView.as_view()),
    re_path(r"^v1/chat/completions/(?P<completion_id>[^/]+)/?$", views.CompletionView.as_view()),
    re_path(r"^v1/completions/?$", text_completion_views.CompletionsView.as_view()),
    re_path(r"^v1/responses/?$", response_views.ResponsesView.as_view()),
    re_path(r"^v1/responses/compact/?$", response_views.CompactView.as_view()),
    re_path(r"^v1/responses/input_tokens/?$", response_views.InputTokensView.as_view()),
    re_path(r"^v1/responses/(?P<response_id>[^/]+)/cancel/?$", response_views.ResponseCancelView.as_view()),
    re_path(r"^v1/responses/(?P<response_id>[^/]+)/input_items/?$", response_views.InputItemsView.as_view()),
    re_path(r"^v1/responses/(?P<response_id>[^/]+)/?$", response_views.ResponseView.as_view()),
    re_path(r"^v1/conversations/?$", conversation_views.ConversationsView.as_view()),
    re_path(r"^v1/conversations/(?P<conversation_id>[^/]+)/items/?$", conversation_views.ItemsView.as_view()),
    re_path(
        r"^v1/conversations/(?P<conversation_id>[^/]+)/items/(?P<item_id>[^/]+)/?$",
        conversation_views.ItemView.as_view(),
    ),
    re_path(r"^v1/conversations/(?P<conversation_id>[^/]+)/?$", conversation_views.ConversationView.as_view()),
    re_path(r"^api/profiles/?$", manage_views.ProfilesView.as_view()),
    re_path(r"^api/profiles/(?P<name>[^/]+)/?$", manage_views.ProfileView.as_view()),
    re_path(r"^api/conversations/(?P<conversation_id>[^/]+)/?$", manage_views.ConversationView.as_view()),
    re_path(r"^health/?$", views.health_view),
    re_path(r"^ready/?$", views.ready_view),
    re_path(r"^metrics/?$", metrics_view.metrics_view),
    re_path(r"^(?:v1/?)?$", views.root_view),
    re_path(r"^(?:v1|api)/.*$", views.UnknownUrlView.as_view()),
]
